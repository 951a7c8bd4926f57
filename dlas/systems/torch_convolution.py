"""PyTorch's convolutions in Relax."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import is_op, rewrite_call, wildcard


def import_convolution(node: Any, importer: Any) -> relax.Expr:
    """Emit an `aten.convolution` over one, two or three dimensions, plain or transposed; returns the result.

    TVM's own conversion has no transposed convolution over three dimensions and no output padding of a
    stride or more, and leaves zero padding that PyTorch writes apart (padding="same", nn.ZeroPad2d) to run
    as an operator of its own.
    """
    arguments = importer.retrieve_args(node)
    data, weight, bias, stride, padding, dilation, transposed, output_padding, groups = arguments
    builder = importer.block_builder
    axes = data.ty.ndim - 2
    options = {"strides": _per_axis(stride, axes), "dilation": _per_axis(dilation, axes), "groups": groups}
    padding = _per_axis(padding, axes)
    if transposed:
        result = _transposed(builder, data, weight, padding, _per_axis(output_padding, axes), options)
    else:
        data, before, after = _without_zero_padding(builder, data, padding)
        convolution = getattr(relax.op.nn, f"conv{axes}d")
        result = builder.emit(convolution(data, weight, padding=[*before, *after], **options))
    if bias is None:
        return result
    return builder.emit(relax.op.add(result, relax.op.reshape(bias, (1, -1, *[1] * axes))))


def _per_axis(values: list[int], axes: int) -> list[int]:
    return list(values) * axes if len(values) == 1 else list(values)


def _transposed(
    builder: relax.BlockBuilder,
    data: relax.Expr,
    weight: relax.Expr,
    padding: list[int],
    output_padding: list[int],
    options: dict[str, Any],
) -> relax.Expr:
    """Output padding takes away from the padding at the end, and what is left of it adds zeros there."""
    after = [pad - more for pad, more in zip(padding, output_padding, strict=True)]
    convolution = getattr(relax.op.nn, f"conv{len(padding)}d_transpose")
    result = builder.emit(
        convolution(data, weight, padding=[*padding, *(max(0, pad) for pad in after)], **options)
    )
    if min(after) >= 0:
        return result
    widths = [width for pad in after for width in (0, max(0, -pad))]
    return builder.emit(relax.op.nn.pad(result, [0, 0, 0, 0, *widths]))


def _without_zero_padding(
    builder: relax.BlockBuilder, data: relax.Expr, padding: list[int]
) -> tuple[relax.Expr, list[int], list[int]]:
    """What a convolution reads, and its padding before and after, with the zero padding of `data` in it."""
    pad = builder.lookup_binding(data) if isinstance(data, relax.Var) else None
    if isinstance(pad, relax.Call) and pad.op == tvm.ir.Op.get("relax.nn.pad"):
        attrs = pad.attrs
        widths = [int(width) for width in attrs.pad_width]
        if attrs.pad_mode == "constant" and attrs.pad_value == 0 and not any(widths[:4]) and min(widths) >= 0:
            before = [own + more for own, more in zip(padding, widths[4::2], strict=True)]
            after = [own + more for own, more in zip(padding, widths[5::2], strict=True)]
            return pad.args[0], before, after
    return data, padding, padding


@relax.transform.function_pass(opt_level=0, name="WidenConv1d")
class WidenConv1d:
    """Rewrite each conv1d (N, CI, W) as a conv2d of one row (N, CI, 1, W)."""

    def transform_function(
        self, function: relax.Function, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> relax.Function:
        data, weight = wildcard(), wildcard()

        def widen(call: relax.Call, matches: dict[Any, relax.Expr]) -> relax.Expr:
            attrs = call.attrs
            before, after = attrs.padding
            wide = relax.op.nn.conv2d(
                relax.op.expand_dims(matches[data], 2),
                relax.op.expand_dims(matches[weight], 2),
                strides=(1, *attrs.strides),
                padding=(0, before, 0, after),
                dilation=(1, *attrs.dilation),
                groups=attrs.groups,
            )
            return relax.op.squeeze(wide, 2)

        return rewrite_call(is_op("relax.nn.conv1d")(data, weight), widen, function)
