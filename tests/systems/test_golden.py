"""The lowered code of each algorithm for each target, as files that a reviewer can read.

`pytest tests/systems/test_golden.py --update-golden` writes them anew after a wanted change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm

from dlas.algorithms.convolution import Conv2d
from dlas.hardware import targets
from dlas.systems import census, codegen, passes
from dlas.systems.codegen import llvm_target
from dlas.systems.schedules import roles
from dlas.values import Compiler
from tests.systems.lowering import AVX512, NEON, relax_conv2d

GOLDEN = Path(__file__).parents[1] / "golden"
COMPILERS = {"x86_avx": AVX512, "hikey970_neon": NEON}
PLAIN = Conv2d(1, 6, 9, 9, 20, 3, 3, stride=(2, 2), padding=(1, 1, 1, 1))
DEPTHWISE = Conv2d(1, 6, 9, 9, 6, 3, 3, padding=(1, 1, 1, 1), groups=6)


BLOCKED = Conv2d(1, 16, 9, 9, 32, 3, 3, stride=(2, 2), padding=(1, 1, 1, 1))
GPUS = {name: targets.load(name).compiler for name in ("hikey970_opencl", "xavier_cuda")}
SPARSE = [f"{format}_{algorithm}" for format in ("csr", "csr_packed") for algorithm in passes.ALGORITHMS]


def lowered(
    conv: Conv2d, algorithm: str, schedule: str, compiler: Compiler, format: str = "dense"
) -> tvm.IRModule:
    """A convolution with bias and ReLU. In a sparse format, three of four weights are zero."""
    weight = np.ones((conv.CO, conv.CG, conv.KH, conv.KW), "float32")
    if format != "dense" and format != "blocked":
        weight.reshape(-1)[np.arange(weight.size) % 4 != 0] = 0
    mod = relax_conv2d(conv, weight, "bias and relu")
    with codegen.of(compiler):
        return passes.lower(mod, algorithm, schedule, compiler, format=format)[0]


def split_kernel(kernel: str) -> tuple[str, str]:
    """Algorithm and format of the name of a kernel: csr_packed_gemm, gemm."""
    algorithm = next(name for name in passes.ALGORITHMS if kernel.endswith(name))
    return algorithm, kernel.removesuffix(algorithm).rstrip("_") or "dense"


def kernel(mod: tvm.IRModule, algorithm: str = "conv2d") -> tvm.tirx.PrimFunc:
    """Of the convolution; in blocks, others change the layout around it."""
    called = census.called_functions(mod)
    (name,) = [each for each in called if algorithm in each] if len(called) > 1 else called
    return mod[name]


@pytest.mark.parametrize("target", COMPILERS)
@pytest.mark.parametrize("schedule", passes.SCHEDULES)
@pytest.mark.parametrize("algorithm", [*passes.ALGORITHMS, *SPARSE, "depthwise", "blocked_direct"])
def test_lowered_code_is_the_golden_one(
    algorithm: str, schedule: str, target: str, request: pytest.FixtureRequest
) -> None:
    conv = {"depthwise": DEPTHWISE, "blocked_direct": BLOCKED}.get(algorithm, PLAIN)
    compare(conv, algorithm, schedule, target, COMPILERS[target], request)


@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize("schedule", passes.SCHEDULES)
@pytest.mark.parametrize(
    "algorithm", [*passes.ALGORITHMS, *(f"ell_{name}" for name in passes.ALGORITHMS), "depthwise"]
)
def test_lowered_code_of_a_gpu_is_the_golden_one(
    algorithm: str, schedule: str, target: str, request: pytest.FixtureRequest
) -> None:
    conv = DEPTHWISE if algorithm == "depthwise" else PLAIN
    compare(conv, algorithm, schedule, target, GPUS[target], request)


def compare(
    conv: Conv2d,
    algorithm: str,
    schedule: str,
    target: str,
    compiler: Compiler,
    request: pytest.FixtureRequest,
) -> None:
    asked, format = ("direct", "dense") if algorithm == "depthwise" else split_kernel(algorithm)
    script = kernel(lowered(conv, asked, schedule, compiler, format), asked).script() + "\n"
    path = GOLDEN / target / f"{algorithm}_{schedule}.py.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
    assert path.read_text() == script, f"{path} differs; if that is wanted, run pytest with --update-golden"


def test_only_a_xavier_stages_in_shared_memory() -> None:
    for name, compiler in GPUS.items():
        for algorithm in passes.ALGORITHMS:
            script = kernel(lowered(PLAIN, algorithm, "scheduled", compiler), algorithm).script()
            assert script.count('scope="shared"') == (2 if name == "xavier_cuda" else 0)
            assert script.count('scope="local"') >= 1


def shapes(func: tvm.tirx.PrimFunc) -> dict[str, list[int]]:
    """What each block writes, by the block's name."""
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    return {
        roles.name(sch, block): [int(n) for n in sch.get(block).writes[0].source.shape]
        for block in roles.blocks(sch)
    }


def test_the_algorithms_are_what_their_names_say() -> None:
    written = {name: shapes(kernel(lowered(PLAIN, name, "minimal", AVX512))) for name in passes.ALGORITHMS}
    assert set(written["direct"]) & {"im2col", "pack_tiles"} == set()
    N, rows, columns, CI, KH, KW, height, width = written["gemm"]["im2col"]
    assert (N, CI, KH, KW) == (1, 6, 3, 3)
    assert rows * height >= PLAIN.OH
    assert columns * width >= PLAIN.OW
    # A packed tile holds its halo once: a 3x3 kernel at stride 2 reads 2 * (n - 1) + 3 inputs for n outputs.
    *_, CI, tile_height, tile_width = written["spatial_pack"]["pack_tiles"]
    *_, height, width, _ = written["spatial_pack"]["spatial_pack"]
    assert (CI, tile_height, tile_width) == (6, 2 * height + 1, 2 * width + 1)


@pytest.mark.parametrize("format", ["csr", "csr_packed"])
def test_the_sparse_algorithms_are_what_their_names_say(format: str) -> None:
    written = {
        name: shapes(kernel(lowered(PLAIN, name, "minimal", AVX512, format))) for name in passes.ALGORITHMS
    }
    for name, blocks in written.items():
        packed = {"direct": set(), "gemm": {"im2col"}, "spatial_pack": {"pack_tiles"}}[name]
        assert set(blocks) & {"im2col", "pack_tiles"} == packed
        assert f"{format}_{name}" in blocks
    # A row of the matrix for each input channel and place of the filter, a column for each output of a tile.
    N, rows, columns, elements = written["gemm"]["im2col"]
    *_, outputs = written["gemm"][f"{format}_gemm"]
    assert elements % (6 * 3 * 3) == 0
    assert rows * columns * outputs >= PLAIN.OH * PLAIN.OW
    # The image with its zeros, once, by phase: each of 4 planes holds every second row and column.
    N, CI, padded = written["direct"]["pad"]
    assert (N, CI) == (1, 6)
    assert padded >= 4 * 6 * 6


@pytest.mark.parametrize(
    ("compiler", "instruction"), [(AVX512, "vfmadd231ps"), (NEON, "fmla")], ids=["avx512", "neon"]
)
@pytest.mark.parametrize("algorithm", [*passes.ALGORITHMS, *SPARSE, "depthwise", "blocked_direct"])
def test_the_inner_kernel_multiplies_and_adds_vectors(
    algorithm: str, compiler: Compiler, instruction: str
) -> None:
    groups = 64 if algorithm == "depthwise" else 1
    conv = Conv2d(1, 64, 16, 16, 64, 3, 3, padding=(1, 1, 1, 1), groups=groups)
    target = llvm_target(compiler)
    asked, format = ("direct", "dense") if groups > 1 else split_kernel(algorithm)
    mod = tvm.IRModule({"main": kernel(lowered(conv, asked, "scheduled", compiler, format))})
    with target:
        assembly = tvm.compile(mod, target).mod.inspect_source("s")
    vector = "zmm" if compiler is AVX512 else ".4s"
    count = sum(instruction in line and vector in line for line in assembly.splitlines())
    least = 16 if format == "dense" else 4  # a sparse kernel's loop is over nonzeros, all of them alike
    assert count >= least, f"{count} {instruction} on whole vectors"
