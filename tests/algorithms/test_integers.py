"""Convolutions of 8-bit integers compute what their definition says, on compiled code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlas.algorithms import integer
from dlas.algorithms.convolution import Conv2d, Tile
from dlas.hardware import targets
from dlas.systems import passes
from dlas.systems.export import generate
from dlas.systems.schedules import dots
from tests.algorithms.test_convolutions import SHAPES
from tests.systems.lowering import AVX2, AVX512, NEON, compile_and_run
from tests.systems.quantizing import Case, draw, relax_quantized

ALGORITHMS = sorted(passes.ALGORITHMS)
VNNI = replace(AVX512, mattr=("+avx512vnni", "-prefer-256-bit"))
HOST = targets.load("x86").compiler
COMPILERS = {"vpmaddwd, avx2": AVX2}
if HOST.vector_lanes == 16:
    COMPILERS["vpmaddwd, avx512"] = AVX512
if "+avx512vnni" in HOST.mattr:
    COMPILERS["vpdpbusd"] = VNNI


def assert_exact(case: Case, output: np.ndarray) -> None:
    """A float32 product next to a half may round otherwise than one in float64: by one step, and rarely."""
    off = np.abs(case.steps(output) - case.expected())
    assert off.max() <= 1
    assert off.sum() <= off.size / 10_000 + 1


# vpmaddwd on a third of the shapes for each algorithm; this machine's on all.
CASES = [
    (shape, algorithm, compiler)
    for i, shape in enumerate(SHAPES)
    for j, algorithm in enumerate(ALGORITHMS)
    for compiler in COMPILERS
    if compiler == "vpdpbusd" or (i + j) % 3 == 0
]


@pytest.mark.parametrize(("shape", "algorithm", "compiler"), CASES)
def test_scheduled_integers_are_exact(shape: str, algorithm: str, compiler: str) -> None:
    case = draw(SHAPES[shape], relu=len(shape) % 2 == 0)
    assert len(np.unique(case.expected())) > min(20, case.expected().size // 4)
    mod = relax_quantized(case)
    output = compile_and_run(mod, algorithm, "scheduled", case.floats, COMPILERS[compiler], "int8")
    assert_exact(case, output)


@pytest.mark.parametrize("shape", ["odd channels", "grouped, odd", "depthwise, two each, strided", "batch"])
def test_minimal_integers_are_exact(shape: str) -> None:
    case = draw(SHAPES[shape])
    assert_exact(case, compile_and_run(relax_quantized(case), "gemm", "minimal", case.floats, AVX2, "int8"))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_either_type_of_activations_is_exact(dtype: str, per_channel: bool) -> None:
    case = draw(SHAPES["odd channels"], dtype, per_channel)
    assert_exact(
        case, compile_and_run(relax_quantized(case), "direct", "scheduled", case.floats, AVX2, "int8")
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_extreme_integers_do_not_saturate(compiler: str) -> None:
    """The sum of two products of 255 and 127 is more than 16 bits hold."""
    conv = Conv2d(1, 64, 4, 4, 32, 1, 1)
    case = draw(conv)
    case = replace(
        case, x=np.full_like(case.x, 255), x_zero=0, weight=np.full_like(case.weight, 127), bias=case.bias * 0
    )
    scale = float(np.float32(64 * 255 * 127 * case.scale.max() / 100))
    case = replace(case, y_scale=scale, y_zero=20)
    output = compile_and_run(
        relax_quantized(case), "direct", "scheduled", case.floats, COMPILERS[compiler], "int8"
    )
    assert_exact(case, output)


def test_what_a_float_cannot_be_clipped_from_is_clipped() -> None:
    """Sums of a million steps: rounding by an addition would lose their sign."""
    case = draw(SHAPES["plain"])
    case = replace(case, y_scale=float(np.float32(case.y_scale / 1e6)))
    assert set(np.unique(case.expected())) <= {0, 255}
    assert_exact(
        case, compile_and_run(relax_quantized(case), "direct", "scheduled", case.floats, AVX2, "int8")
    )


def test_a_filter_is_packed_in_the_order_of_its_dot_products() -> None:
    conv = Conv2d(1, 6, 1, 1, 20, 1, 1)
    weight = np.arange(120, dtype="int8").reshape(20, 6, 1, 1)
    packed = integer.pack_filter(weight, conv, Tile(16, 1, 1), dots.VNNI)
    assert packed.shape == (2, 1, 1, 2, 1, 16, 4)
    assert packed[1, 0, 0, 0, 0, 3].tolist() == weight[19, :4, 0, 0].tolist()
    assert packed[1, 0, 0, 1, 0, 3].tolist() == [*weight[19, 4:, 0, 0], 0, 0]
    assert not packed[1, 0, 0, :, 0, 4:].any()


@pytest.mark.parametrize(
    ("compiler", "instructions"),
    [
        (VNNI, ["vpdpbusd"]),
        (replace(AVX2, mattr=("+avxvnni",)), ["vpdpbusd"]),
        (AVX512, ["vpmaddwd"]),
        (AVX2, ["vpmaddwd"]),
        (NEON, ["smull", "addp", "sadalp"]),
    ],
    ids=["avx512vnni", "avxvnni", "avx512", "avx2", "neon"],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_hot_loop_is_dot_products(algorithm: str, compiler: object, instructions: list[str]) -> None:
    mod = relax_quantized(draw(Conv2d(1, 32, 12, 12, 64, 3, 3, padding=(1, 1, 1, 1))))
    lowered, found = passes.lower(mod, algorithm, "scheduled", compiler, "int8")
    assembly = generate(lowered, compiler).mod.imports[0].inspect_source("s")
    for instruction in instructions:
        assert assembly.count(f"{instruction}\t") >= 8, instruction
    assert (found.total, found.as_asked, found.integer, found.fallbacks) == (1, 1, 1, ())
    assert found.layout == "nhwc"
    assert instructions[0] in found.arithmetic
    assert "TVMBackendParallelLaunch" in assembly
