"""Every algorithm under every schedule computes what the NumPy oracle computes, on compiled code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlas.algorithms import blocks, reference
from dlas.algorithms.convolution import Conv2d
from dlas.hardware import targets
from dlas.systems import passes
from dlas.values import Compiler
from tests.systems.lowering import AVX2, compile_and_run, relax_conv2d

ALGORITHMS = sorted(passes.ALGORITHMS)
COMPILERS = {"avx2": AVX2, "this machine's": targets.load("x86").compiler}

SHAPES = {
    "plain": Conv2d(1, 8, 9, 9, 16, 3, 3, padding=(1, 1, 1, 1)),
    "odd channels": Conv2d(1, 5, 7, 6, 11, 3, 3, padding=(1, 1, 1, 1)),
    "one channel": Conv2d(1, 1, 6, 6, 1, 3, 3),
    "pointwise": Conv2d(1, 24, 5, 5, 40, 1, 1),
    "pointwise, strided": Conv2d(1, 6, 9, 9, 10, 1, 1, stride=(2, 2)),
    "one output": Conv2d(1, 12, 3, 3, 20, 3, 3),
    "squeezed, 1x1 on 1x1": Conv2d(1, 40, 1, 1, 10, 1, 1),
    "unequal strides": Conv2d(1, 4, 11, 12, 9, 3, 3, stride=(1, 3), padding=(1, 1, 1, 1)),
    "uneven padding": Conv2d(1, 4, 7, 8, 6, 2, 4, padding=(1, 2, 0, 1)),
    "more padding than kernel": Conv2d(1, 3, 4, 4, 5, 2, 2, padding=(3, 3, 3, 3)),
    "dilated": Conv2d(1, 4, 12, 11, 6, 3, 2, padding=(2, 0, 2, 0), dilation=(2, 3)),
    "grouped": Conv2d(1, 12, 8, 8, 20, 3, 3, padding=(1, 1, 1, 1), groups=4),
    "grouped, as wide as two vectors and a half": Conv2d(1, 8, 2, 1, 80, 1, 1, groups=2),
    "grouped, odd": Conv2d(1, 9, 6, 7, 15, 3, 3, stride=(2, 1), groups=3),
    "depthwise": Conv2d(1, 10, 9, 7, 10, 3, 3, padding=(1, 1, 1, 1), groups=10),
    "depthwise, two each, strided": Conv2d(1, 3, 9, 9, 6, 3, 3, stride=(2, 2), groups=3),
    "batch": Conv2d(3, 5, 6, 6, 7, 3, 3, padding=(1, 1, 1, 1)),
    "row kernel": Conv2d(1, 4, 5, 17, 6, 1, 7, padding=(0, 3, 0, 3)),
    "many tiles": Conv2d(1, 3, 41, 39, 17, 3, 3, padding=(1, 1, 1, 1)),
    "filters larger than the cache": Conv2d(1, 130, 5, 5, 260, 3, 3, padding=(1, 1, 1, 1)),
    "wide": Conv2d(1, 3, 3, 40, 33, 3, 3, padding=(1, 1, 1, 1)),
}


def operands(conv: Conv2d, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((conv.N, conv.CI, conv.H, conv.W), dtype="float32")
    return x, rng.standard_normal((conv.CO, conv.CG, conv.KH, conv.KW), dtype="float32")


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for float32 sums in another order."""
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_agrees_with_torch(shape: str) -> None:
    conv = SHAPES[shape]
    x, weight = operands(conv)
    top, left, bottom, right = conv.padding
    padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight), None, conv.stride, 0, conv.dilation, conv.groups
    )
    assert_close(reference.conv2d(x, weight, conv), expected.numpy())


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_scheduled_convolution_is_exact(shape: str, algorithm: str, compiler: str) -> None:
    conv = SHAPES[shape]
    x, weight = operands(conv)
    bias = np.arange(conv.CO).reshape(1, -1, 1, 1) / conv.CO - 0.5
    expected = np.maximum(reference.conv2d(x, weight, conv) + bias, 0)
    mod = relax_conv2d(conv, weight, "bias and relu")
    assert_close(compile_and_run(mod, algorithm, "scheduled", x, COMPILERS[compiler]), expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", ["plain", "odd channels", "grouped, odd", "depthwise, two each, strided"])
def test_minimal_convolution_is_exact(shape: str, algorithm: str) -> None:
    conv = SHAPES[shape]
    x, weight = operands(conv)
    actual = compile_and_run(relax_conv2d(conv, weight), algorithm, "minimal", x)
    assert_close(actual, reference.conv2d(x, weight, conv))


def halved(conv: Conv2d, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What is computed, in float64, from operands that are stored as float16."""
    bias = (np.arange(conv.CO).reshape(1, -1, 1, 1) / conv.CO - 0.5).astype("float16")
    return np.maximum(reference.conv2d(x.astype("float16"), weight.astype("float16"), conv) + bias, 0)


HALF = 2.0**-11  # a rounding to float16, relative


BLOCKED = {
    "plain": Conv2d(1, 16, 9, 9, 32, 3, 3, padding=(1, 1, 1, 1)),
    "of an image": Conv2d(1, 3, 11, 12, 32, 7, 7, stride=(2, 2), padding=(3, 3, 3, 3)),
    "pointwise": Conv2d(1, 32, 7, 7, 48, 1, 1),
    "pointwise, strided": Conv2d(1, 16, 9, 9, 32, 1, 1, stride=(2, 2)),
    "pointwise, padded": Conv2d(1, 16, 5, 5, 16, 1, 1, padding=(1, 0, 0, 1)),
    "one output": Conv2d(1, 16, 3, 3, 16, 3, 3),
    "unequal strides": Conv2d(1, 16, 11, 12, 16, 3, 3, stride=(1, 3), padding=(1, 1, 1, 1)),
    "uneven padding": Conv2d(1, 16, 7, 8, 16, 2, 4, padding=(1, 2, 0, 1)),
    "dilated": Conv2d(1, 16, 12, 11, 16, 3, 2, padding=(2, 0, 2, 0), dilation=(2, 3)),
    "grouped": Conv2d(1, 32, 8, 8, 64, 3, 3, padding=(1, 1, 1, 1), groups=2),
    "depthwise": Conv2d(1, 32, 9, 7, 32, 3, 3, padding=(1, 1, 1, 1), groups=32),
    "depthwise, strided": Conv2d(1, 16, 14, 14, 16, 5, 5, stride=(2, 2), padding=(2, 2, 2, 2), groups=16),
    "batch": Conv2d(3, 16, 6, 6, 16, 3, 3, padding=(1, 1, 1, 1)),
    "channels that make no block": Conv2d(1, 20, 6, 6, 28, 3, 3, padding=(1, 1, 1, 1)),
    "few channels to many": Conv2d(1, 20, 6, 6, 32, 3, 3, padding=(1, 1, 1, 1)),
    "filters larger than the cache": Conv2d(1, 256, 5, 5, 272, 3, 3, padding=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", BLOCKED)
def test_a_convolution_in_blocks_is_exact(shape: str, algorithm: str, compiler: str) -> None:
    conv = BLOCKED[shape]
    x, weight = operands(conv)
    bias = np.arange(conv.CO).reshape(1, -1, 1, 1) / conv.CO - 0.5
    expected = np.maximum(reference.conv2d(x, weight, conv) + bias, 0)
    mod = relax_conv2d(conv, weight, "bias and relu")
    actual = compile_and_run(mod, algorithm, "scheduled", x, COMPILERS[compiler], format="blocked")
    assert_close(actual, expected)


@pytest.mark.parametrize("shape", ["plain", "of an image", "pointwise", "depthwise", "grouped"])
def test_a_minimal_convolution_in_blocks_is_exact(shape: str) -> None:
    conv = BLOCKED[shape]
    x, weight = operands(conv)
    mod = relax_conv2d(conv, weight)
    assert_close(
        compile_and_run(mod, "direct", "minimal", x, AVX2, format="blocked"),
        reference.conv2d(x, weight, conv),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_in_half_is_rounded_once(shape: str, algorithm: str) -> None:
    conv = SHAPES[shape]
    x, weight = operands(conv)
    mod = relax_conv2d(conv, weight, "bias and relu", between=True)
    actual = compile_and_run(mod, algorithm, "scheduled", x, COMPILERS["this machine's"], "fp16")
    np.testing.assert_allclose(actual, halved(conv, x, weight), rtol=1.01 * HALF, atol=1e-4)


@pytest.mark.parametrize("shape", ["odd channels", "pointwise", "grouped, odd", "depthwise", "one output"])
def test_a_minimal_convolution_in_half_is_rounded_once(shape: str) -> None:
    conv = SHAPES[shape]
    x, weight = operands(conv)
    mod = relax_conv2d(conv, weight, "bias and relu", between=True)
    actual = compile_and_run(mod, "gemm", "minimal", x, AVX2, "fp16")
    np.testing.assert_allclose(actual, halved(conv, x, weight), rtol=1.01 * HALF, atol=1e-4)


@st.composite
def convolutions(draw: st.DrawFn) -> Conv2d:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    (KH, KW), (dh, dw) = pair(1, 4), pair(1, 2)
    (H, W), (top, left), (bottom, right) = pair(1, 12), pair(0, 2), pair(0, 2)
    H = max(H, dh * (KH - 1) + 1 - top - bottom)
    W = max(W, dw * (KW - 1) + 1 - left - right)
    CI, CO = groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 20))
    padding = (top, left, bottom, right)
    return Conv2d(draw(st.integers(1, 2)), CI, H, W, CO, KH, KW, pair(1, 3), padding, (dh, dw), groups)


@settings(max_examples=30)
@given(
    conv=convolutions(),
    algorithm=st.sampled_from(ALGORITHMS),
    compiler=st.sampled_from(list(COMPILERS.values())),
)
def test_any_convolution_is_exact(conv: Conv2d, algorithm: str, compiler: Compiler) -> None:
    x, weight = operands(conv)
    mod = relax_conv2d(conv, weight, "bias and relu")
    actual = compile_and_run(mod, algorithm, "scheduled", x, compiler)
    bias = np.arange(conv.CO).reshape(1, -1, 1, 1) / conv.CO - 0.5
    assert_close(actual, np.maximum(reference.conv2d(x, weight, conv) + bias, 0))


def test_a_filter_block_never_spans_two_groups() -> None:
    conv = Conv2d(1, 4, 4, 4, 6, 1, 1, groups=2)
    with pytest.raises(ValueError, match="4 lanes do not divide the 3 output channels"):
        blocks.pack_filter(np.zeros((6, 2, 1, 1), "float32"), conv, lanes=4)
