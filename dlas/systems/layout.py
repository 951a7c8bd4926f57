"""Channels in blocks: activations as (N, C/block, H, W, block) from the first convolution to the last map.

A block is a vector of the target, so that what the inner kernel has in its lanes goes to memory as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from dlas.algorithms.blocks import NCHW_AXES, to_blocks

_UNARY = tuple(
    tvm.ir.Op.get(f"relax.{name}")
    for name in ("nn.relu", "nn.silu", "nn.gelu", "clip", "sigmoid", "tanh", "exp", "negative")
)
_BINARY = tuple(
    tvm.ir.Op.get(f"relax.{name}") for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
)
_POOLS = {
    tvm.ir.Op.get("relax.nn.max_pool2d"): relax.op.nn.max_pool2d,
    tvm.ir.Op.get("relax.nn.avg_pool2d"): relax.op.nn.avg_pool2d,
}
_CONV2D, _MEAN, _CONCAT = (tvm.ir.Op.get(f"relax.{name}") for name in ("nn.conv2d", "mean", "concat"))
_CHANNELS, _PLACES = 1, [2, 3]


def name(block: int) -> str:
    """As in the rows' column `layout`, and in TVM: NCHW8c."""
    return f"NCHW{block}c" if block else "NCHW"


def has_blocks(mod: tvm.IRModule) -> bool:
    """Whether a convolution of main gives channels in blocks."""
    values = [binding.value for each in mod["main"].body.blocks for binding in each.bindings]
    calls = [value for value in values if isinstance(value, relax.Call) and value.op == _CONV2D]
    return any(str(call.attrs.out_layout) not in ("", name(0)) for call in calls)


def block_channels(mod: tvm.IRModule, block: int) -> tvm.IRModule:
    """The module of `frontend.to_relax`, with convolutions and what lies between them in blocks.

    A convolution whose channels are no multiple of the block, and one of maps of a single place, where both
    layouts are the same memory, stay NCHW. What main takes and gives is as before.
    """
    main = mod["main"]
    builder = relax.BlockBuilder()
    rewriter = _Rewriter(builder, block)
    with builder.function("main", list(main.params)):
        with builder.dataflow():
            for each in main.body.blocks:
                for binding in each.bindings:
                    rewriter.bind(binding)
            output = builder.emit_output(rewriter.plain(main.body.body))
        builder.emit_func_output(output)
    result: tvm.IRModule = builder.get()
    return result


class _Rewriter:
    """Emits bindings, and knows of each variable its forms: in NCHW, in blocks, and in blocks as one row.

    One row is how a pointwise convolution has its map: tiles then need not end where rows do. To go from rows
    to one and back costs nothing, it is the same memory.
    """

    def __init__(self, builder: relax.BlockBuilder, block: int) -> None:
        self._builder, self._block = builder, block
        self._plain: dict[relax.Var, relax.Expr] = {}
        self._blocked: dict[relax.Var, relax.Expr] = {}

    def bind(self, binding: relax.VarBinding) -> None:
        """Emit what a binding computes, in blocks where that can be."""
        var, value = binding.var, binding.value
        blocked = self._in_blocks(value) if isinstance(value, relax.Call) else None
        if blocked is None:
            self._plain[var] = self._builder.emit(self._with_plain(value))
        else:
            self._blocked[var] = self._builder.emit(blocked)

    def plain(self, expr: relax.Expr) -> relax.Expr:
        """The expression in NCHW."""
        if not isinstance(expr, relax.Var):
            return expr
        if expr not in self._plain and expr in self._blocked:
            n, c, h, w = _shape(expr)
            x = self._blocked[expr]
            if (h, w) != (1, 1):
                x = relax.op.permute_dims(self._reshape(x, (n, c // self._block, h, w)), [0, 1, 4, 2, 3])
            self._plain[expr] = self._emit(relax.op.reshape(x, (n, c, h, w)))
        return self._plain.get(expr, expr)

    def blocked(self, expr: relax.Expr, is_row: bool = False) -> relax.Expr | None:
        """A map, or what is broadcast over one, in blocks; None where its channels are none."""
        shape = _shape(expr)
        if isinstance(expr, relax.Var) and expr in self._blocked:
            n, c, h, w = shape
            return self._reshape(
                self._blocked[expr], (n, c // self._block, *((1, h * w) if is_row else (h, w)))
            )
        if not isinstance(expr.ty, relax.TensorType):
            return None
        if int(np.prod(shape)) == 1:
            return self.plain(expr) if not shape else self._emit(relax.op.reshape(self.plain(expr), ()))
        if len(shape) not in (NCHW_AXES - 1, NCHW_AXES) or shape[-3] % self._block:
            return None
        *batch, channels, height, width = shape
        split = (*(batch or [1]), channels // self._block, self._block, height, width)
        if isinstance(expr, tvm.ir.GenericConst):
            if (height, width) != (1, 1):
                return None
            return relax.const(to_blocks(expr.value.numpy().reshape(-1, *shape[-3:]), self._block))
        if height == width == 1:
            return self._reshape(self.plain(expr), (*split[:2], 1, 1))
        if not batch:
            return None  # a map without a batch is broadcast over one, and is no variable with forms
        made = self._emit(relax.op.permute_dims(relax.op.reshape(self.plain(expr), split), [0, 1, 3, 4, 2]))
        self._blocked[expr] = made
        return self.blocked(expr, is_row)

    def _reshape(self, x: relax.Expr, maps: tuple[int, ...]) -> relax.Expr:
        shape = (*maps, self._block)
        return x if _shape(x) == shape else self._emit(relax.op.reshape(x, shape))

    def _emit(self, expr: relax.Expr) -> relax.Expr:
        return self._builder.emit(self._builder.normalize(expr))

    def _is_row(self, expr: relax.Expr) -> bool:
        """Whether a map is there as one row, and not as the rows that it has."""
        if expr not in self._blocked:
            return False
        return _shape(self._blocked[expr])[2:4] != _shape(expr)[2:4]

    def _with_plain(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Var):
            return self.plain(value)
        if isinstance(value, relax.Call):
            args = [self._plain_argument(arg) for arg in value.args]
            return relax.Call(value.op, args, value.attrs, value.ty_args)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.plain(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self.plain(value.tuple_value), value.index)
        return value

    def _plain_argument(self, arg: relax.Expr) -> relax.Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self.plain(field) for field in arg.fields])
        return self.plain(arg)

    def _in_blocks(self, call: relax.Call) -> relax.Expr | None:
        rules: dict[Any, Callable[[relax.Call], relax.Expr | None]] = {
            _CONV2D: self._convolution,
            _MEAN: self._mean,
            _CONCAT: self._concatenation,
            **dict.fromkeys(_UNARY, self._unary),
            **dict.fromkeys(_BINARY, self._binary),
            **dict.fromkeys(_POOLS, self._pool),
        }
        rule = rules.get(call.op)
        return None if rule is None else rule(call)

    def _convolution(self, call: relax.Call) -> relax.Expr | None:
        x, weight = call.args
        attrs, shape = call.attrs, _shape(x)
        is_plain = {str(attrs.data_layout), str(attrs.out_layout)} <= {"", name(0)}
        if not isinstance(weight, tvm.ir.GenericConst) or _is_single_place(x) or not is_plain:
            return None
        outputs, per_group, *_ = _shape(weight)
        groups = int(attrs.groups)
        is_depthwise = groups == outputs == shape[_CHANNELS]
        is_small = shape[_CHANNELS] < self._block and groups == 1  # an image: it is read as it comes
        whole = outputs // groups % self._block == 0 and (per_group % self._block == 0 or is_small)
        if outputs % self._block or not (whole or is_depthwise):
            return None
        layout = name(self._block)
        is_pointwise = [*_shape(weight)[2:], *map(int, attrs.padding), groups] == [1, 1, 0, 0, 0, 0, 1]
        strides = [int(n) for n in attrs.strides]
        if is_small:
            x = self.plain(x)
        elif is_pointwise:
            x, strides = self._places(x, strides), [1, 1]
        else:
            x = self.blocked(x)
        return relax.op.nn.conv2d(
            x,
            weight,
            strides=strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=groups,
            data_layout=name(0) if is_small else layout,
            kernel_layout="OIHW",
            out_layout=layout,
        )

    def _places(self, x: relax.Expr, strides: list[int]) -> relax.Expr:
        """What a pointwise convolution reads of a map, as one row: with strides, the places that it keeps."""
        if strides == [1, 1]:
            return self.blocked(x, is_row=True)
        kept = self._emit(relax.op.strided_slice(self.blocked(x), _PLACES, [0, 0], _shape(x)[2:], strides))
        n, blocks, h, w, _ = _shape(kept)
        return self._reshape(kept, (n, blocks, 1, h * w))

    def _unary(self, call: relax.Call) -> relax.Expr | None:
        if call.args[0] not in self._blocked:
            return None
        return relax.Call(call.op, [self._blocked[call.args[0]], *call.args[1:]], call.attrs, call.ty_args)

    def _binary(self, call: relax.Call) -> relax.Expr | None:
        if not any(arg in self._blocked for arg in call.args):
            return None
        maps = {_shape(arg)[2:] for arg in call.args if len(_shape(arg)) == NCHW_AXES} - {(1, 1)}
        # What is broadcast over rows alone has no form as one row.
        is_row = any(self._is_row(arg) for arg in call.args) and len(maps) == 1
        args = [self.blocked(arg, is_row) for arg in call.args]
        if any(arg is None for arg in args):
            return None
        return relax.Call(call.op, args, call.attrs, call.ty_args)

    def _pool(self, call: relax.Call) -> relax.Expr | None:
        x, attrs = call.args[0], call.attrs
        if x not in self._blocked or str(attrs.layout) != "NCHW":
            return None
        return _POOLS[call.op](
            self.blocked(x),
            attrs.pool_size,
            attrs.strides,
            attrs.padding,
            attrs.dilation,
            attrs.ceil_mode,
            attrs.count_include_pad,
            layout=name(self._block),
            out_layout=name(self._block),
        )

    def _mean(self, call: relax.Call) -> relax.Expr | None:
        x, attrs = call.args[0], call.attrs
        axes = attrs.axis and sorted(int(axis) % NCHW_AXES for axis in attrs.axis)
        if x not in self._blocked or axes != _PLACES or not attrs.keepdims:
            return None
        return relax.op.mean(self._blocked[x], axes, keepdims=True)

    def _concatenation(self, call: relax.Call) -> relax.Expr | None:
        fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else ()
        if int(call.attrs.axis) != _CHANNELS or not any(field in self._blocked for field in fields):
            return None
        parts = [self.blocked(field) for field in fields]
        if any(part is None for part in parts):
            return None
        return relax.op.concat(parts, _CHANNELS)


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    """The extents of a tensor, of a scalar none; also none of what is no tensor."""
    if not isinstance(expr.ty, relax.TensorType):
        return ()
    return tuple(int(extent) for extent in expr.ty.shape)


def _is_single_place(expr: relax.Expr) -> bool:
    shape = _shape(expr)
    return len(shape) == NCHW_AXES and shape[2:] == (1, 1)
