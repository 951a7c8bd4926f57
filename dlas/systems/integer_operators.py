"""Relax calls that compute with 8-bit integers, and between integers and float32.

Each is one function for TVM to fuse with its neighbours, so integers become float32 and integers again in
registers. Scales are multiplied out in float64 where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from dlas.algorithms import integer
from dlas.algorithms.convolution import Conv2d, Tile
from dlas.systems import tiles
from dlas.systems.integer_values import Bounds, Moved, Quantized, Sums, Table, Total
from dlas.systems.schedules import dots
from dlas.values import Compiler

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
# How TVM may fuse them: kElemWise, kBroadcast and kOutEWiseFusable of tvm/relax/op_attr_types.h.
_BY_ELEMENT, _BROADCAST, _CONVOLUTION = 0, 1, 4


def offset(stored: str, wanted: str) -> int:
    """What to add to integers of one type so that they are those of another, in the same order.

    >>> offset("int8", "uint8")
    128
    """
    return LIMITS[wanted][0] - LIMITS[stored][0]


def convolve(
    builder: relax.BlockBuilder,
    x: Quantized,
    filters: np.ndarray,
    conv: Conv2d,
    algorithm: str,
    compiler: Compiler,
) -> relax.Expr:
    """The sums of x (N, H, W, CI) with filters int8 (CO, CI/groups, KH, KW): int32 (N, OH, OW, CO)."""
    dot = dots.choose(compiler)
    if conv.depthwise:
        tile = tiles.choose_integer_depthwise(conv, compiler, dot)
        packed = integer.pack_depthwise_filter(filters, conv, dot)
        compute = partial(integer.depthwise, conv=conv, tile=tile, dot=dot, zero_point=x.zero_point)
        return _emit(builder, "integer_depthwise", _CONVOLUTION, compute, x.expr, relax.const(packed))
    conv, filters = merge_groups(conv, filters, dot)
    tile = tiles.choose_integer(conv, compiler, dot)
    return _dense(builder, x, filters, conv, tile, dot, algorithm)


def multiply(
    builder: relax.BlockBuilder, x: Quantized, filters: np.ndarray, compiler: Compiler
) -> relax.Expr:
    """The sums of x (N, CI) times filters int8 (CO, CI): (N, CO). A convolution of one pixel."""
    (N, CI), CO, dot = x.shape, len(filters), dots.choose(compiler)
    conv = Conv2d(N, CI, 1, 1, CO, 1, 1)
    image = Quantized(builder.emit(relax.op.reshape(x.expr, (N, 1, 1, CI))), x.scale, x.zero_point)
    tile = tiles.choose_integer(conv, compiler, dot)
    made = _dense(builder, image, filters[:, :, None, None], conv, tile, dot, "linear")
    return builder.emit(relax.op.reshape(made, (N, CO)))


def merge_groups(conv: Conv2d, filters: np.ndarray, dot: integer.Dot) -> tuple[Conv2d, np.ndarray]:
    """The same convolution with as many groups joined as fill a vector and a dot product, by zeros.

    filters: int8 (CO, CI/groups, KH, KW).
    """
    joined = next(
        n
        for n in range(1, conv.groups + 1)
        if conv.groups % n == 0
        and (n == conv.groups or (n * conv.OG % dot.lanes == 0 and n * conv.CG % dot.taps == 0))
    )
    groups = conv.groups // joined
    wide = np.zeros((groups, joined, conv.OG, joined, conv.CG, conv.KH, conv.KW), filters.dtype)
    each = filters.reshape(groups, joined, conv.OG, conv.CG, conv.KH, conv.KW)
    for n in range(joined):
        wide[:, n, :, n] = each[:, n]
    merged = Conv2d(
        conv.N,
        conv.CI,
        conv.H,
        conv.W,
        conv.CO,
        conv.KH,
        conv.KW,
        conv.stride,
        conv.padding,
        conv.dilation,
        groups,
    )
    return merged, wide.reshape(conv.CO, joined * conv.CG, conv.KH, conv.KW)


def requantize_sums(
    builder: relax.BlockBuilder, sums: Sums, scale: float, zero_point: int, dtype: str
) -> relax.Expr:
    """What the sums mean as integers of another scale: round(meaning / scale) + zero_point."""
    limits = _limits(sums.bounds, scale, zero_point, dtype)

    def compute(sums: te.Tensor, bias: te.Tensor, factor: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            whole = (sums(*index) + bias[index[-1]]).astype("float32")
            return (round_within(whole * factor[index[-1]], *limits) + zero_point).astype(dtype)

        return te.compute(sums.shape, element, name="requantize")

    constants = _whole(sums.bias), _floats(sums.scale / scale)
    return _emit(builder, "requantize", _BY_ELEMENT, compute, sums.expr, *constants)


def requantize_total(
    builder: relax.BlockBuilder, total: Total, scale: float, zero_point: int, dtype: str
) -> relax.Expr:
    """What a total means as integers of another scale."""
    limits = _limits(total.bounds, scale, zero_point, dtype)
    shift = -sum(term.zero_point * term.scale for term in total.terms) / scale

    def compute(*terms: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            scaled = _float(shift)
            for term, value in zip(terms, total.terms, strict=True):
                scaled = term(*index).astype("float32") * _float(value.scale / scale) + scaled
            return (round_within(scaled, *limits) + zero_point).astype(dtype)

        return te.compute(terms[0].shape, element, name="requantize_total")

    exprs = [term.expr for term in total.terms]
    return _emit(builder, "requantize_total", _BY_ELEMENT, compute, *exprs)


def scale_sums(builder: relax.BlockBuilder, sums: Sums) -> relax.Expr:
    """What the sums mean, in float32."""

    def compute(sums_: te.Tensor, bias: te.Tensor, scale: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            whole = (sums_(*index) + bias[index[-1]]).astype("float32")
            return _bounded(whole * scale[index[-1]], sums.bounds)

        return te.compute(sums_.shape, element, name="scale")

    constants = _whole(sums.bias), _floats(sums.scale)
    return _emit(builder, "scale", _BY_ELEMENT, compute, sums.expr, *constants)


def scale_total(builder: relax.BlockBuilder, total: Total) -> relax.Expr:
    """What a total means, in float32."""

    def compute(*terms: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            values = [_meaning(term(*index), of) for term, of in zip(terms, total.terms, strict=True)]
            return _bounded(sum(values[1:], values[0]), total.bounds)

        return te.compute(terms[0].shape, element, name="scale_total")

    return _emit(builder, "scale_total", _BY_ELEMENT, compute, *(term.expr for term in total.terms))


def quantize(
    builder: relax.BlockBuilder, x: relax.Expr, scale: float, zero_point: int, dtype: str
) -> relax.Expr:
    """round(x / scale) + zero_point, of float32.

    In this order, and divided: it is how ONNX defines it, and one input that is rounded the other way changes
    all sums around it.
    """
    low, high = (limit - zero_point for limit in LIMITS[dtype])

    def compute(x: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            return (round_within(x(*index) / _float(scale), low, high) + zero_point).astype(dtype)

        return te.compute(x.shape, element, name="quantize")

    return _emit(builder, "quantize", _BY_ELEMENT, compute, x)


def tabulate(x: Quantized, dtype: str) -> Table:
    """What integers mean, as a function of themselves, or of those that they are a function of already."""
    low, high = LIMITS[dtype]
    integers = np.arange(low, high + 1, dtype=np.float32)
    return x.origin or Table(x, (integers - np.float32(x.zero_point)) * np.float32(x.scale))


def look_up(
    builder: relax.BlockBuilder, table: Table, scale: float, zero_point: int, dtype: str
) -> Quantized:
    """A table's function as integers of another scale: a byte is read for each."""
    low, high = LIMITS[dtype]
    integers = np.clip(np.rint(table.meanings / np.float32(scale)) + zero_point, low, high)

    def compute(x: te.Tensor, integers: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *index: integers[x(*index).astype("int32") - low], name="look_up")

    constant = relax.const(integers.astype(dtype))
    made = _emit(builder, "look_up", _BY_ELEMENT, compute, table.source.expr, constant)
    meanings = (integers.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return Quantized(made, scale, zero_point, Table(table.source, meanings))


def read_table(builder: relax.BlockBuilder, table: Table, dtype: str) -> relax.Expr:
    """A table's function in float32."""
    low, _ = LIMITS[dtype]

    def compute(x: te.Tensor, meanings: te.Tensor) -> te.Tensor:
        return te.compute(
            x.shape, lambda *index: meanings[x(*index).astype("int32") - low], name="read_table"
        )

    return _emit(builder, "read_table", _BY_ELEMENT, compute, table.source.expr, relax.const(table.meanings))


def dequantize(builder: relax.BlockBuilder, x: Quantized) -> relax.Expr:
    """What integers mean, in float32."""
    return _emit(builder, "dequantize", _BY_ELEMENT, partial(_dequantized, of=x), x.expr)


def by_element(builder: relax.BlockBuilder, name: str, values: Sequence[Quantized | Moved]) -> relax.Expr:
    """An operator of TVM's library on float32; integers are dequantized as they are read."""

    def compute(*args: te.Tensor) -> te.Tensor:
        floats = [
            _dequantized(arg, value) if isinstance(value, Quantized) else arg
            for arg, value in zip(args, values, strict=True)
        ]
        function: Any = topi
        for part in name.split("."):
            function = getattr(function, part)
        return function(*floats)

    return _emit(builder, name.rpartition(".")[2], _BROADCAST, compute, *(value.expr for value in values))


def scale_and_shift(
    builder: relax.BlockBuilder, x: relax.Expr, scale: np.ndarray, shift: np.ndarray
) -> relax.Expr:
    """scale * x + shift by channel, float32; x is (N, H, W, C), the others (C,)."""

    def compute(x: te.Tensor, scale: te.Tensor, shift: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            return x(*index) * scale[index[-1]] + shift[index[-1]]

        return te.compute(x.shape, element, name="scale_and_shift")

    return _emit(builder, "scale_and_shift", _BY_ELEMENT, compute, x, _floats(scale), _floats(shift))


def round_within(scaled: Any, low: float, high: float) -> Any:
    """The integer nearest to a float32, ties to even, within two integers: the lowest 22 bits of an int32.

    A float32 from 2**23 on is an integer. So adding 1.5 * 2**23 to a small one rounds it, by the processor's
    own rule, and leaves it in the lowest bits: one addition, where a conversion with its checks takes five
    instructions.
    """
    clipped = te.max(te.min(scaled, _float(high)), _float(low))
    return tirx.reinterpret("int32", clipped + _float(1.5 * 2**23))


def _dense(
    builder: relax.BlockBuilder,
    x: Quantized,
    filters: np.ndarray,
    conv: Conv2d,
    tile: Tile,
    dot: integer.Dot,
    algorithm: str,
) -> relax.Expr:
    compute = partial(
        integer.conv2d, conv=conv, tile=tile, dot=dot, zero_point=x.zero_point, algorithm=algorithm
    )
    packed = relax.const(integer.pack_filter(filters, conv, tile, dot))
    return _emit(builder, f"integer_{algorithm}", _CONVOLUTION, compute, x.expr, packed)


def _emit(
    builder: relax.BlockBuilder, name: str, pattern: int, compute: Callable[..., te.Tensor], *args: relax.Expr
) -> relax.Expr:
    return builder.emit_te(compute, *args, primfunc_name_hint=name, primfunc_attrs={"op_pattern": pattern})


def _limits(bounds: Bounds, scale: float, zero_point: int, dtype: str) -> tuple[float, float]:
    """The least and the largest integer before the zero point is added."""
    of_type = np.array(LIMITS[dtype]) - zero_point
    low, high = np.clip(np.rint(np.array([bounds.low, bounds.high]) / scale), *of_type)
    return float(low), float(high)


def _bounded(value: Any, bounds: Bounds) -> Any:
    value = te.max(value, _float(bounds.low)) if np.isfinite(bounds.low) else value
    return te.min(value, _float(bounds.high)) if np.isfinite(bounds.high) else value


def _dequantized(x: te.Tensor, of: Quantized) -> te.Tensor:
    return te.compute(x.shape, lambda *index: _meaning(x(*index), of), name="dequantize")


def _meaning(integer: Any, of: Quantized) -> Any:
    return (integer.astype("int32") - of.zero_point).astype("float32") * _float(of.scale)


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _floats(values: np.ndarray) -> relax.Expr:
    return relax.const(values.astype("float32"))


def _whole(values: np.ndarray) -> relax.Expr:
    return relax.const(values.astype("int32"))
