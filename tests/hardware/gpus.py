"""Small networks compiled for a GPU, their kernels as bytes, and the runner in a chosen environment."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dlas.hardware.protocol import encode_job
from dlas.hardware.runner import Runner
from dlas.values import Board, Compiler, Gpu, Job, Target

Code = Callable[[str], str | bytes]

WIDTH = 64
OPAQUE = 8  # kOpaque of tvm/relax/op_attr_types.h: nothing is fused with it
ROW = np.arange(WIDTH, dtype="float32")


def a_target(name: str, compiler: Compiler, gpu: Gpu) -> Target:
    return Target(name, (), "a GPU of the tests", "", compiler, Board(("local",), threads=1), None, gpu=gpu)


HOST = ("x86_64", "x86_64-linux-gnu", "x86-64", (), 0, 0, 0, "g++")
OPENCL = a_target("test_opencl", Compiler("opencl", *HOST), Gpu("Portable Computing Language"))
CUDA = a_target("test_cuda", Compiler("cuda", *HOST, gpu_arch="sm_72"), Gpu("Xavier"))


def export_network(compiled_for: Target, path: Path, code: Code) -> None:
    """(x + ROW) * x by two kernels, add_kernel and multiply_kernel: x is (rows, WIDTH) for any rows.

    code: what is shipped of the kernels' source.
    """
    import tvm
    from tvm import relax, topi

    builder, alone = relax.BlockBuilder(), {"op_pattern": OPAQUE}
    x = relax.Var("x", relax.TensorType((tvm.tirx.Var("rows", "int64"), WIDTH), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            total = builder.emit_te(topi.add, x, relax.const(ROW), primfunc_attrs=alone)
            y = builder.emit_output(builder.emit_te(topi.multiply, total, x, primfunc_attrs=alone))
        builder.emit_func_output(y)
    _export(builder.get(), compiled_for, path, code)


def export_wide(compiled_for: Target, path: Path, code: Code, rows: int, inside: bool = False) -> None:
    """4 times the sum of x over its first axis, by way of (rows, WIDTH) of these sums: x is (4, WIDTH).

    inside: whether these are made and read in one function, and not a tensor that passes between two.
    """
    from tvm import relax, te

    def repeat(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, 4), "k")  # with a sum nothing is fused
        return te.compute((rows, WIDTH), lambda i, j: te.sum(x[k, j], k))

    def shorten(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, 4), "k")
        return te.compute((4, WIDTH), lambda i, j: te.sum(x[i + k, j], k))

    def both(x: te.Tensor) -> te.Tensor:
        return shorten(repeat(x))

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, WIDTH), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = x
            for function in [both] if inside else [repeat, shorten]:
                y = builder.emit_te(function, y)
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    _export(builder.get(), compiled_for, path, code)


def _export(mod: Any, compiled_for: Target, path: Path, code: Code) -> None:
    import tvm
    import tvm_ffi

    from dlas.systems.codegen import gpu_target

    callback = f"tvm_callback_{compiled_for.compiler.kind}_postproc"
    tvm_ffi.register_global_func(callback, lambda source, _: code(source), override=True)
    try:
        tvm.compile(mod, gpu_target(compiled_for.compiler)).export_library(str(path))
    finally:
        tvm_ffi.registry.remove_global_func(callback)


def expected(inputs: np.ndarray) -> np.ndarray:
    return (inputs + ROW) * inputs


def a_job(module: Path, count: int = 1, rows: int = 4, **changes: Any) -> Job:
    inputs = np.random.default_rng(count).standard_normal((count, rows, WIDTH)).astype("float32")
    job = Job(module, inputs, (rows, WIDTH), threads=1, repeats=0, warmups=0, timeout_s=60)
    return replace(job, **changes)


def seal(contents: bytes) -> bytes:
    """As a runner keeps compiled kernels: behind their checksum, FNV-1a."""
    checksum = 14695981039346656037
    for byte in contents:
        checksum = (checksum ^ byte) * 1099511628211 % (1 << 64)
    return struct.pack("<Q", checksum) + contents


def link(path: Path, source: str) -> None:
    """Make a library of C."""
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source.encode(), check=True)


def find_kernels(library: bytes, form: str) -> bytes:
    """The one module of kernels in a library, as TVM wrote it: its format comes first, behind its length."""
    begin = struct.pack("<Q", len(form)) + form.encode()
    at = -1
    while (at := library.index(begin, at + 1)) >= 0:
        (size,) = struct.unpack_from("<Q", library, at - 8)
        if size < len(library) - at:
            return library[at : at + size]


@dataclass(frozen=True)
class Said:
    """What a runner said of one job: its line, the outputs behind that, and its stderr."""

    fields: dict[str, Any]
    raw: bytes
    log: str

    @property
    def error(self) -> str:
        return self.fields.get("error", "")

    def outputs(self, job: Job) -> np.ndarray:
        assert not self.error
        return np.frombuffer(self.raw, "<f4").reshape(len(job.inputs), *job.output_shape)


def ask(
    program: Runner, target: Target, job: Job, folder: Path, kernels: str = "", **environment: str
) -> Said:
    """One job to the runner, which has little of an environment but this. folder: for the job's module."""
    folder.mkdir(exist_ok=True)
    ended = subprocess.run(
        [program.binary, "serve", "--dir", folder, "--timeout-s", str(int(job.timeout_s))],
        input=b"".join(encode_job(job, target, kernels)),
        capture_output=True,
        timeout=job.timeout_s + 20,
        env={"PATH": "/usr/bin:/bin"} | environment,
    )
    line, _, raw = ended.stdout.partition(b"\n")
    return Said(json.loads(line), raw, ended.stderr.decode(errors="replace"))
