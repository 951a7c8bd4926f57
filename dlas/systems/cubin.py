"""CUDA C++ to a cubin, code for one architecture of GPU, by NVRTC: no toolkit and no GPU are needed here.

NVRTC, and the header of float16, come from Nvidia's wheels. They are of CUDA 11.8: drivers of
any CUDA 11 load its cubins, as the one of a Jetson AGX Xavier, which later releases leave out.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dlas.errors import BuildError

_OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--disable-warnings", "--ptxas-options=-v")
# What TVM's code takes from headers of the toolkit that the wheels lack. Of the traits it only names some.
_BEFORE = "#define INFINITY __int_as_float(0x7f800000)\n#define NAN __int_as_float(0x7fffffff)\n"
_HEADERS = {
    "cuda/std/cstdint": """
namespace cuda { namespace std {
using int8_t = signed char;  using uint8_t = unsigned char;
using int16_t = short;       using uint16_t = unsigned short;
using int32_t = int;         using uint32_t = unsigned int;
using int64_t = long;        using uint64_t = unsigned long;
} }
""",
    "cuda/std/type_traits": """
namespace cuda { namespace std {
template <class, class> struct is_same;
template <class A, class B> extern const bool is_same_v;
template <class> struct is_integral;
template <class> struct is_signed;
template <class> struct is_unsigned;
template <class> struct is_floating_point;
template <bool, class> struct enable_if;
template <bool, class, class> struct conditional;
} }
""",
}


@dataclass(frozen=True)
class Cubin:
    """code: an ELF file. log: of the assembler, with the registers, and what is spilled, of each kernel."""

    code: bytes
    log: str


def compile_cuda(source: str, arch: str) -> Cubin:
    """arch: as in a target, sm_72. Raises BuildError."""
    nvrtc = _library()
    program = ctypes.c_void_p()
    headers = _strings(_HEADERS.values()), _strings(_HEADERS)
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), (_BEFORE + source).encode(), b"kernels.cu", len(_HEADERS), *headers
    )
    _check(created, arch)
    try:
        include = f"--include-path={_wheel('cuda_runtime') / 'include'}"
        options = (f"--gpu-architecture={arch}", include, *_OPTIONS)
        with _kept_locale():
            code = nvrtc.nvrtcCompileProgram(program, len(options), _strings(options))
        log = _read(nvrtc, program, "ProgramLog").decode(errors="replace").rstrip("\0\n")
        if code != 0:
            wrong = [line for line in log.splitlines() if "error" in line] or [f"code {code}"]
            raise BuildError(f"NVRTC does not compile for {arch}: {wrong[0][:300]}", "see the cell's log")
        return Cubin(_read(nvrtc, program, "CUBIN"), log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@contextmanager
def _kept_locale() -> Iterator[None]:
    """NVRTC gives its thread the locale C, in which Python reads no text but ASCII, and leaves it so."""
    libc = ctypes.CDLL(None)
    libc.uselocale.restype, libc.uselocale.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    before = libc.uselocale(None)
    try:
        yield
    finally:
        libc.uselocale(before)


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


@cache
def _library() -> ctypes.CDLL:
    for path in sorted((_wheel("cuda_nvrtc") / "lib").glob("libnvrtc.so.*")):
        return ctypes.CDLL(str(path))
    raise _missing("cuda_nvrtc")


def _wheel(name: str) -> Path:
    try:
        spec = importlib.util.find_spec(f"nvidia.{name}")
    except ModuleNotFoundError as error:
        raise _missing(name) from error
    if spec is None or not spec.submodule_search_locations:
        raise _missing(name)
    return Path(spec.submodule_search_locations[0])


def _missing(name: str) -> BuildError:
    wheel = f"nvidia-{name.replace('_', '-')}-cu11"
    return BuildError(f"{wheel} is not installed in this Python", "install requirements/run.txt")


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer), what)
    return buffer.raw


def _check(code: int, what: str) -> None:
    if code != 0:
        raise BuildError(f"NVRTC fails with code {code}: {what}", "report this defect of dlas")
