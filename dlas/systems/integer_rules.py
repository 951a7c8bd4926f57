"""What becomes of each operator of a quantized network: one rule for each that is known.

A rule takes the rewriter, the operator's call and what became of its arguments. It returns what becomes of
the result, or None where it does not apply: then the operator stays as it was imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from dlas.algorithms.convolution import Conv2d
from dlas.systems import integer_operators as operators
from dlas.systems.integer_values import (
    FREE,
    Computed,
    Constant,
    Moved,
    Plain,
    Quantized,
    Sums,
    Table,
    Total,
    Value,
)

if TYPE_CHECKING:
    from dlas.systems.integers import Rewriter

# Operators by element: their names in Relax and in TVM's library, and what they are in NumPy.
_BY_ELEMENT: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "nn.relu": lambda x: np.maximum(x, 0),
}
HALF_INT32 = 2**30
FLOAT32_ERROR = 1e-6  # relative: a bias has the product of two scales, rounded to float32
_POOL_OPTIONS = (
    "pool_size",
    "strides",
    "dilation",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "output_size",
)


# Quantization


def quantize(
    to: Rewriter, call: relax.Call, value: Value, scale: Constant, zero_point: Constant
) -> Quantized | None:
    if scale.values.size != 1 or isinstance(value, Constant):
        return None
    stored, wanted = str(call.ty.dtype.dtype), to.dot.activations
    step = float(scale.values.item())
    zero = int(zero_point.values.item()) + operators.offset(stored, wanted)
    if isinstance(value, Quantized):
        if (value.scale, value.zero_point) == (step, zero):
            return value
        value = operators.tabulate(value, wanted)
    if isinstance(value, Table):
        return operators.look_up(to.builder, value, step, zero, wanted)
    if isinstance(value, Sums):
        made = operators.requantize_sums(to.builder, value, step, zero, wanted)
    elif isinstance(value, Total):
        made = operators.requantize_total(to.builder, value, step, zero, wanted)
    else:
        made = operators.quantize(to.builder, to.floats(value), step, zero, wanted)
    return Quantized(made, step, zero)


def dequantize(
    to: Rewriter, call: relax.Call, value: Value, scale: Constant, zero_point: Constant
) -> Value | None:
    if not isinstance(value, Constant):
        return value if isinstance(value, Quantized) else None
    integers, sizes = value.values, [1] * value.values.ndim
    if scale.values.size > 1:
        sizes[int(call.attrs.axis)] = -1
    steps = scale.values.astype("float64").reshape(sizes)
    zeros = np.broadcast_to(zero_point.values.astype("int64").reshape(-1), scale.values.size).reshape(sizes)
    values = steps * (integers.astype("int64") - zeros)
    is_symmetric = integers.dtype == np.int8 and not zeros.any() and integers.min(initial=0) > -128
    return Constant(values, integers, steps) if is_symmetric else Constant(values)


# Convolutions and linear layers


def conv2d(to: Rewriter, call: relax.Call, x: Value, weight: Value) -> Sums | None:
    if not isinstance(x, Quantized) or not isinstance(weight, Constant) or weight.integers is None:
        return None
    attrs, (N, H, W, CI), (CO, _, KH, KW) = call.attrs, x.shape, weight.shape
    stride, padding, dilation = (tuple(map(int, a)) for a in (attrs.strides, attrs.padding, attrs.dilation))
    conv = Conv2d(N, CI, H, W, CO, KH, KW, stride, padding, dilation, int(attrs.groups))  # type: ignore[arg-type]
    if not _fit_int32(weight.integers):
        return None
    made = operators.convolve(to.builder, x, weight.integers, conv, to.algorithm, to.compiler)
    return _sums(made, x, weight.integers, weight)


def matmul(to: Rewriter, call: relax.Call, x: Value, weight: Value) -> Sums | None:
    if not isinstance(x, Quantized) or not isinstance(weight, Constant) or weight.integers is None:
        return None
    if len(x.shape) != 2 or len(weight.shape) != 2 or (weight.scale is not None and len(weight.scale) > 1):
        return None
    filters = np.ascontiguousarray(weight.integers.T)
    if not _fit_int32(filters):
        return None
    return _sums(operators.multiply(to.builder, x, filters, to.compiler), x, filters, weight)


def _sums(made: relax.Expr, x: Quantized, filters: np.ndarray, weight: Constant) -> Sums:
    """filters: int8 (CO, ...). What the zero point of the input takes off is the same everywhere."""
    CO = len(filters)
    steps = np.ones(1) if weight.scale is None else weight.scale.reshape(-1)
    bias = -x.zero_point * filters.reshape(CO, -1).sum(1, dtype="int64")
    return Sums(made, np.broadcast_to(x.scale * steps, (CO,)), bias)


def _fit_int32(filters: np.ndarray) -> bool:
    """Whether no sum of products with bytes can leave int32. filters: int8 (CO, ...)."""
    largest = np.abs(filters.reshape(len(filters), -1).astype("int64")).sum(1).max()
    return bool(255 * largest < HALF_INT32)


# What only moves


def permute_dims(to: Rewriter, call: relax.Call, value: Value) -> Constant | None:
    if not isinstance(value, Constant):
        return None
    axes = None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
    parts = (value.values, value.integers, value.scale)
    return Constant(*(None if part is None else part.transpose(axes) for part in parts))  # type: ignore[arg-type]


def reshape(to: Rewriter, call: relax.Call, value: Value, shape: Any) -> Value | None:
    target = [int(size) for size in call.ty.shape]
    if isinstance(value, Constant):
        return Constant(value.values.reshape(target))
    if isinstance(value, Plain):
        return None
    before = value.shape
    is_vector = len(before) == 2 or (len(before) == 4 and before[1:3] == [1, 1])
    becomes_vector = len(target) in (2, 4) and target[2:] in ([], [1, 1])
    if not is_vector or not becomes_vector or target[:2] != [before[0], before[-1]]:
        return None
    if not isinstance(value, Quantized):
        value = Moved(to.floats(value))
    sizes = target if len(target) == 2 else [target[0], 1, 1, target[1]]
    made = to.builder.emit(relax.op.reshape(value.expr, sizes))
    return replace(value, expr=made, origin=None) if isinstance(value, Quantized) else Moved(made)


def concat(to: Rewriter, call: relax.Call, values: tuple[Value, ...]) -> Moved | None:
    is_of_channels = int(call.attrs.axis) == 1 and all(
        not isinstance(value, Constant) and len(value.shape) == 4 for value in values
    )
    if not is_of_channels:
        return None
    return Moved(to.builder.emit(relax.op.concat([to.floats(value) for value in values], axis=3)))


# What is computed by element


def add(to: Rewriter, call: relax.Call, a: Value, b: Value) -> Value | None:
    if isinstance(a, Sums) and isinstance(b, Constant):
        bias = _bias(a, b)
        if bias is not None:
            return replace(a, bias=a.bias + bias)
    if isinstance(a, Quantized) and isinstance(b, Quantized) and a.shape == b.shape:
        return Total((a, b))
    return by_element(to, call, a, b)


def _bias(sums: Sums, constant: Constant) -> np.ndarray | None:
    """A constant as int64 to add to the sums of each channel, as a bias is; None where it is not that."""
    axes, shape = len(sums.shape), constant.shape
    padded = [1] * (axes - len(shape)) + shape
    channel_axis = 1  # the constant lies as it was imported
    is_by_channel = len(padded) == axes and all(
        size == 1 or axis == channel_axis for axis, size in enumerate(padded)
    )
    if not is_by_channel or sums.bounds != FREE or not sums.scale.all():
        return None
    steps = constant.values.reshape(-1) / sums.scale
    rounded = np.rint(steps)
    is_whole = np.allclose(steps, rounded, rtol=FLOAT32_ERROR, atol=1e-3)
    return rounded.astype("int64") if is_whole and np.abs(rounded).max() < HALF_INT32 else None


def relu(to: Rewriter, call: relax.Call, value: Value) -> Value | None:
    if isinstance(value, Sums | Total):
        return replace(value, bounds=value.bounds.within(0.0, np.inf))
    return by_element(to, call, value)


def by_element(to: Rewriter, call: relax.Call, *values: Value) -> Moved | Table | None:
    axes = call.ty.ndim
    if not any(isinstance(value, Computed) for value in values):
        return None
    if any(len(value.shape) not in (0, axes) for value in values):
        return None
    name = str(call.op.name).removeprefix("relax.")
    if table := _tabulated(to, name, values):
        return table
    read = [value if isinstance(value, Quantized) else Moved(to.floats(value)) for value in values]
    return Moved(operators.by_element(to.builder, name, read))


def _tabulated(to: Rewriter, name: str, values: Sequence[Value]) -> Table | None:
    """An operator as a table, where all it reads is a function of one tensor, as in x * sigmoid(x)."""
    tables = []
    for value in values:
        if isinstance(value, Quantized):
            tables.append(operators.tabulate(value, to.dot.activations))
        elif isinstance(value, Table):
            tables.append(value)
        elif isinstance(value, Constant) and value.values.size == 1:
            continue
        else:
            return None
    if not tables or any(not each.source.expr.same_as(tables[0].source.expr) for each in tables):
        return None
    known = iter(tables)
    read = [
        np.float32(value.values.item()) if isinstance(value, Constant) else next(known).meanings
        for value in values
    ]
    with np.errstate(all="ignore"):
        meanings = _BY_ELEMENT[name](*read).astype(np.float32)
    return Table(tables[0].source, meanings) if np.isfinite(meanings).all() else None


def batch_norm(to: Rewriter, call: relax.Call, value: Value, *parameters: Constant) -> Any:
    if not isinstance(value, Computed) or len(value.shape) != 4:
        return None
    if not all(isinstance(parameter, Constant) for parameter in parameters):
        return None
    gamma, beta, mean, variance = (parameter.values.astype("float64") for parameter in parameters[:4])
    scale = gamma / np.sqrt(variance + call.attrs.epsilon)
    made = operators.scale_and_shift(to.builder, to.floats(value), scale, beta - mean * scale)
    return Moved(made), *parameters[2:4]


# What is computed over an image


def pool(to: Rewriter, call: relax.Call, value: Value) -> Value | None:
    if not isinstance(value, Computed):
        return None
    options = {name: getattr(call.attrs, name) for name in _POOL_OPTIONS if hasattr(call.attrs, name)}
    name = str(call.op.name).rpartition(".")[2]
    function = getattr(relax.op.nn, name)
    if name == "max_pool2d" and isinstance(value, Quantized):  # integers are in the order of what they mean
        pooled = to.builder.emit(function(value.expr, **options, layout="NHWC"))
        return replace(value, expr=pooled, origin=None)
    return Moved(to.builder.emit(function(to.floats(value), **options, layout="NHWC")))


def mean(to: Rewriter, call: relax.Call, value: Value) -> Moved | None:
    if not isinstance(value, Computed) or len(value.shape) != 4:
        return None
    if sorted(int(axis) % 4 for axis in call.attrs.axis or ()) != [2, 3]:
        return None
    keeps = bool(call.attrs.keepdims)
    return Moved(to.builder.emit(relax.op.mean(to.floats(value), axis=[1, 2], keepdims=keeps)))


Rule = Callable[..., Any]

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_BY_ELEMENT, by_element),
    "quantize": quantize,
    "dequantize": dequantize,
    "nn.conv2d": conv2d,
    "matmul": matmul,
    "permute_dims": permute_dims,
    "reshape": reshape,
    "concat": concat,
    "add": add,
    "nn.relu": relu,
    "nn.batch_norm": batch_norm,
    "nn.max_pool2d": pool,
    "nn.avg_pool2d": pool,
    "nn.adaptive_avg_pool2d": pool,
    "mean": mean,
}
