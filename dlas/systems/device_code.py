"""What becomes of the source that TVM generates for a GPU, before it is shipped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tvm_ffi

from dlas.errors import BuildError
from dlas.systems.cubin import compile_cuda
from dlas.values import Compiler

# TVM declares all kernels of a network before each of them. None calls another.
_DECLARATION = re.compile(r"^__kernel void [^{};]*\);\n", re.MULTILINE)
_BOUNDS = re.compile(r"__launch_bounds__\((\d+)\)")
_HALF_GUARD = re.compile(r"^#ifdef cl_khr_fp16\n.*?^#endif\n", re.MULTILINE | re.DOTALL)
_HALF_POINTER = re.compile(r"\bhalf\* restrict (\w+)")
_HALF_ARRAY = re.compile(r"\bhalf (\w+)\[")


@contextmanager
def finished(compiler: Compiler) -> Iterator[None]:
    """Within the block TVM ships what `finish_opencl` and `compile_cuda` make of the source it generates.

    What they raise comes out of the block.
    """
    raised: list[BuildError] = []

    def kept(finish: Callable[[str], str | bytes]) -> Callable[[str, Any], str | bytes]:
        def callback(source: str, _: Any) -> str | bytes:
            try:
                return finish(source)
            except BuildError as error:
                raised.append(error)
                raise

        return callback

    callbacks = {
        "tvm_callback_opencl_postproc": kept(finish_opencl),
        "tvm_callback_cuda_postproc": kept(
            lambda source: compile_cuda(finish_cuda(source), compiler.gpu_arch).code
        ),
    }
    for name, callback in callbacks.items():
        tvm_ffi.register_global_func(name, callback, override=True)
    try:
        yield
    except Exception as error:
        if raised:  # TVM makes it one of its own kinds
            raise raised[0] from error
        raise
    finally:
        for name in callbacks:
            tvm_ffi.registry.remove_global_func(name)


def finish_cuda(source: str) -> str:
    """CUDA C++ whose kernels may have all registers: else the assembler spills some, to have more blocks.

    >>> finish_cuda("void __launch_bounds__(224) f()")
    'void __launch_bounds__(224, 1) f()'
    """
    return _BOUNDS.sub(r"__launch_bounds__(\1, 1)", source)


def finish_opencl(source: str) -> str:
    """One kernel's OpenCL C without the declarations of all others, nine tenths of a network's source.

    float16 is read and written as any OpenCL 1.2 can, by vload_half and vstore_half; TVM asks for an
    extension, cl_khr_fp16. Raises BuildError for code that computes in float16.

    >>> finish_opencl("__kernel void f(__global float* x);\\n__kernel void f(__global float* x) {\\n}\\n")
    '__kernel void f(__global float* x) {\\n}\\n'
    >>> print(finish_opencl("__kernel void f(__global half* restrict x, __global half* restrict y) {\\n"
    ...     "  y[0] = (convert_half(convert_float(x[2]) * 2));\\n}\\n"))
    __kernel void f(__global half* restrict x, __global half* restrict y) {
      vstore_half((vload_half(0, &x[2]) * 2), 0, &y[0]);
    }
    <BLANKLINE>
    """
    source = _HALF_GUARD.sub("", _DECLARATION.sub("", source))
    stored, copied = (_any_of(pattern.findall(source)) for pattern in (_HALF_POINTER, _HALF_ARRAY))
    steps = (
        (rf"^( *)({stored}\[.*\]) = \(convert_half(.*)\);$", r"\1vstore_half(\3, 0, &\2);"),
        (rf"^( *)({stored}\[.*\]) = \(half\)(.*);$", r"\1vstore_half(\3, 0, &\2);"),
        (rf"^( *)({stored}\[.*\]) = ({stored}\[.*\]);$", r"\1vstore_half(vload_half(0, &\3), 0, &\2);"),
        (rf"\bconvert_float\((?={stored}\[)", "vload_half(0, &"),
        # What is copied is widened on the way.
        (rf"\bvload(\d+)(?=\(0, {stored} )", r"vload_half\1"),
        (rf"\bhalf (?={copied}\[)", "float "),
        (rf"\bconvert_float(?=\({copied}\[)", ""),
    )
    for pattern, replacement in steps:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    if left := re.search(rf"^.*(convert_half|\bhalf\d|\(half\)|(?<!&)\b{stored}\[).*$", source, re.MULTILINE):
        raise BuildError(
            f"a kernel computes in float16: {left[0].strip()[:200]}", "report this defect of dlas"
        )
    return source


def _any_of(names: list[str]) -> str:
    """A pattern of these names, or of nothing."""
    return f"(?:{'|'.join(dict.fromkeys(names))})" if names else "(?!)"
