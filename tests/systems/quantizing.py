"""One quantized convolution, as an importer of ONNX writes it, and what it computes by definition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from dlas.algorithms import reference
from dlas.algorithms.convolution import Conv2d

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


@dataclass(frozen=True)
class Case:
    """integers q of x, weights and bias mean their scale times (q - zero point); weights' and bias's is 0."""

    conv: Conv2d
    dtype: str
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    x_scale: float
    x_zero: int
    weight_scale: np.ndarray
    y_scale: float
    y_zero: int
    relu: bool

    @property
    def floats(self) -> np.ndarray:
        """The network's input: what x means, float32."""
        return ((self.x.astype("float64") - self.x_zero) * self.x_scale).astype("float32")

    def expected(self) -> np.ndarray:
        """The integers of the output, int64: exact sums, and one rounding in float64."""
        sums = reference.conv2d(self.x.astype("float64") - self.x_zero, self.weight, self.conv)
        meant = (sums + self.bias.reshape(1, -1, 1, 1)) * self.scale.reshape(1, -1, 1, 1)
        meant = np.maximum(meant, 0) if self.relu else meant
        rounded = np.rint(meant / self.y_scale) + self.y_zero
        return np.clip(rounded, *LIMITS[self.dtype]).astype("int64")

    def steps(self, output: np.ndarray) -> np.ndarray:
        """The integers that a network's output means."""
        return np.rint(output.astype("float64") / self.y_scale).astype("int64") + self.y_zero

    @property
    def scale(self) -> np.ndarray:
        return np.broadcast_to(self.x_scale * self.weight_scale, (self.conv.CO,))


def draw(
    conv: Conv2d, dtype: str = "uint8", per_channel: bool = True, relu: bool = False, seed: int = 0
) -> Case:
    """A convolution whose output fills most of its integers' range, its scales no round numbers."""
    rng = np.random.default_rng(seed)
    low, high = LIMITS[dtype]
    weight = rng.integers(-127, 128, (conv.CO, conv.CG, conv.KH, conv.KW)).astype("int8")
    weight_scale = rng.uniform(0.005, 0.02, conv.CO if per_channel else 1).astype("float32")
    x_scale, x_zero = float(np.float32(0.0137)), int(rng.integers(low + 20, high - 20))
    spread = x_scale * float(weight_scale.mean()) * 74 * 74 * np.sqrt(conv.CG * conv.KH * conv.KW)
    return Case(
        conv,
        dtype,
        rng.integers(low, high + 1, (conv.N, conv.CI, conv.H, conv.W)).astype(dtype),
        weight,
        rng.integers(-5000, 5000, conv.CO).astype("int32"),
        x_scale,
        x_zero,
        weight_scale,
        float(np.float32(spread / 60)),
        int(rng.integers(low + 80, high - 80)),
        relu,
    )


def relax_quantized(case: Case) -> tvm.IRModule:
    """quantize, dequantize, conv2d, bias, ReLU, quantize, dequantize."""
    conv, builder = case.conv, relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((conv.N, conv.CI, conv.H, conv.W), "float32"))

    def constants(scale: object, zero: object, dtype: str) -> tuple[relax.Expr, relax.Expr]:
        return relax.const(np.float32(scale), "float32"), relax.const(np.array(zero, dtype), dtype)

    def rounded(value: relax.Expr, scale: float, zero: int) -> relax.Expr:
        pair = constants(scale, zero, case.dtype)
        return builder.emit(
            relax.op.dequantize(
                builder.emit(relax.op.quantize(value, *pair, 1, case.dtype)), *pair, 1, "float32"
            )
        )

    def known(integers: np.ndarray, scale: np.ndarray) -> relax.Expr:
        dtype = str(integers.dtype)
        zeros = np.zeros(scale.shape, dtype)
        pair = relax.const(scale.astype("float32")), relax.const(zeros, dtype)
        if scale.size == 1:
            pair = constants(scale.item(), 0, dtype)
        return builder.emit(relax.op.dequantize(relax.const(integers), *pair, 0, "float32"))

    with builder.function("main", [x]):
        with builder.dataflow():
            weight = known(case.weight, case.weight_scale)
            bias = known(case.bias, case.scale if case.weight_scale.size > 1 else case.scale[:1])
            shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
            y = builder.emit(relax.op.nn.conv2d(rounded(x, case.x_scale, case.x_zero), weight, *shape))
            y = builder.emit(relax.op.add(y, builder.emit(relax.op.reshape(bias, (1, conv.CO, 1, 1)))))
            y = builder.emit(relax.op.nn.relu(y)) if case.relu else y
            out = builder.emit_output(rounded(y, case.y_scale, case.y_zero))
        builder.emit_func_output(out)
    return builder.get()
