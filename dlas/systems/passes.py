"""Relax passes: give every convolution its algorithm, fuse, and schedule every function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import tvm
from tvm import relax, s_tir, te, tirx

from dlas.algorithms import blocks, depthwise, direct, gemm, spatial_pack
from dlas.algorithms.convolution import Conv2d, Tile
from dlas.errors import ScheduleError, UsageError
from dlas.systems import half, integers, tiles
from dlas.systems.schedules import integer, minimal, roles, scheduled
from dlas.values import Compiler

ALGORITHMS: Mapping[str, ModuleType] = {"direct": direct, "gemm": gemm, "spatial_pack": spatial_pack}
SCHEDULES: Mapping[str, Callable[[tirx.PrimFunc, Compiler], tirx.PrimFunc]] = {
    "minimal": minimal.schedule,
    "scheduled": scheduled.schedule,
}
ARITHMETIC = {  # what is computed with, in words; of integers, `integers.describe` says more
    "fp32": "float32",
    "fp16": half.ARITHMETIC,
    "int8": "8-bit integers",
    "int8_ort_default": "8-bit integers",
}
_DEQUANTIZE = tvm.ir.Op.get("relax.dequantize")
_CONVOLUTION_OPS = tuple(tvm.ir.Op.get(f"relax.nn.conv{axes}d") for axes in (1, 2, 3))
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose")


@dataclass(frozen=True)
class Operators:
    """What became of a network's convolutions.

    as_asked ran the algorithm of the cell, and integer sum integers. The others are as in `Artifact`.
    """

    total: int
    as_asked: int
    depthwise: int
    integer: int
    fallbacks: tuple[str, ...]
    weight_sparsity_fraction: float = 0.0
    arithmetic: str = ""
    layout: str = "nchw"


def lower(
    mod: tvm.IRModule, algorithm: str, schedule: str, compiler: Compiler, precision: str = "fp32"
) -> tuple[tvm.IRModule, Operators]:
    """Lower a Relax module to scheduled functions.

    precision is a key of ARITHMETIC; mod is as from `frontend.to_relax`, or for int8 from
    `quantized.import_quantized`. Raises ScheduleError rather than leave a function unscheduled, and
    ModelError for a weight that the precision cannot hold.
    """
    if precision not in ARITHMETIC:
        raise UsageError(f"unknown precision {precision!r}", f"choose one of {', '.join(ARITHMETIC)}")
    if algorithm not in ALGORITHMS:
        raise UsageError(f"unknown algorithm {algorithm!r}", f"choose one of {', '.join(ALGORITHMS)}")
    convolutions, sparsity, layout = find_convolutions(mod), weight_sparsity(mod), "nchw"
    if precision.startswith("int8"):
        mod, layout = integers.compute_with_integers(mod, algorithm, compiler), "nhwc"
    transform = relax.transform
    mod = tvm.transform.Sequential(
        [
            transform.LegalizeOps({"relax.nn.conv2d": legalize_conv2d(algorithm, compiler)}),
            transform.AnnotateTIROpPattern(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
    )(mod)
    if precision == "fp16":
        mod = half.store_half(mod)
    operators = count_operators(mod, algorithm, convolutions, layout == "nhwc")
    words = ARITHMETIC[precision]
    if layout == "nhwc":
        dot_products = operators.integer > operators.depthwise and schedule == "scheduled"
        words = integers.describe(compiler, operators.integer > 0, dot_products)
    operators = replace(operators, weight_sparsity_fraction=sparsity, arithmetic=words, layout=layout)
    return schedule_functions(mod, schedule, compiler), operators


def legalize_conv2d(
    algorithm: str, compiler: Compiler
) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """The rule that replaces relax.nn.conv2d by the cell's algorithm, its filter packed on the host."""

    def replace(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        x, weight = call.args
        if not isinstance(weight, tvm.ir.GenericConst):
            return call.op.get_attr("FLegalize")(builder, call)
        conv = geometry(call)
        tile = tiles.choose(conv, compiler)
        values = weight.value.numpy()
        if conv.depthwise:
            return emit(builder, depthwise, x, values, conv, tile, "conv2d_depthwise")
        packed = blocks.pack_filter(values, conv, tile.lanes)
        return emit(builder, ALGORITHMS[algorithm], x, packed, conv, tile, f"conv2d_{algorithm}")

    return replace


def emit(
    builder: relax.BlockBuilder,
    module: ModuleType,
    x: relax.Expr,
    weight: np.ndarray,
    conv: Conv2d,
    tile: Tile,
    name: str,
) -> relax.Expr:
    """A call of module.conv2d, ready to be fused with the element-wise operators after it."""

    def compute(x: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return module.conv2d(x, weight, conv, tile)

    pattern = {"op_pattern": 4}  # kOutEWiseFusable of tvm/relax/op_attr_types.h
    return builder.call_te(compute, x, relax.const(weight), primfunc_name_hint=name, primfunc_attrs=pattern)


def geometry(call: relax.Call) -> Conv2d:
    """The convolution that a relax.nn.conv2d call makes."""
    attrs = call.attrs
    N, CI, H, W = (int(extent) for extent in call.args[0].ty.shape)
    CO, _, KH, KW = (int(extent) for extent in call.args[1].ty.shape)
    stride, padding, dilation = (tuple(map(int, a)) for a in (attrs.strides, attrs.padding, attrs.dilation))
    return Conv2d(N, CI, H, W, CO, KH, KW, stride, padding, dilation, int(attrs.groups))  # type: ignore[arg-type]


def schedule_functions(mod: tvm.IRModule, name: str, compiler: Compiler) -> tvm.IRModule:
    """Apply one schedule to every PrimFunc of the module."""
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule {name!r}", f"choose one of {', '.join(SCHEDULES)}")
    result = mod.clone()
    for variable, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        apply = integer.schedule if name == "scheduled" and integer.sums_integers(func) else SCHEDULES[name]
        try:
            done = apply(func, compiler)
        except Exception as error:  # TVM raises many kinds; each means that this step does not apply
            first_line = next(
                (line for line in str(error).splitlines() if line.strip()), type(error).__name__
            )
            raise ScheduleError(
                f"schedule {name} does not apply to {variable.name_hint}: {first_line}", "see the cell's log"
            ) from error
        result[variable] = done.with_attr({"tirx.is_scheduled": True, "global_symbol": variable.name_hint})
    return result


def find_convolutions(mod: tvm.IRModule) -> list[str]:
    """The kinds of convolution in a Relax module, one entry per call."""
    found: list[str] = []

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            kind = str(expr.op.name).removeprefix("relax.nn.")
            if kind in CONVOLUTIONS:
                found.append(kind)

    relax.analysis.post_order_visit(mod["main"], visit)
    return found


def weight_sparsity(mod: tvm.IRModule) -> float:
    """The share of the weights of a module's convolutions that is zero; 0 without constant ones."""
    values = {binding.var: binding.value for block in mod["main"].body.blocks for binding in block.bindings}
    zeros = total = 0
    for value in values.values():
        if not isinstance(value, relax.Call) or value.op not in _CONVOLUTION_OPS:
            continue
        weight = value.args[1]
        zero_point = 0
        made = values.get(weight) if isinstance(weight, relax.Var) else None
        if isinstance(made, relax.Call) and made.op == _DEQUANTIZE:
            weight, zero_point = made.args[0], made.args[2].value.numpy()
        if isinstance(weight, tvm.ir.GenericConst):
            array = weight.value.numpy()
            axes = (-1, *[1] * (array.ndim - 1))
            zero = np.broadcast_to(np.reshape(zero_point, axes), array.shape)
            zeros, total = zeros + int((array == zero).sum()), total + array.size
    return zeros / total if total else 0.0


def called_functions(mod: tvm.IRModule) -> list[str]:
    """The names of the functions that main calls, one entry per call, in order."""
    called: list[str] = []

    def visit(expr: Any) -> None:
        if (
            isinstance(expr, relax.Call)
            and isinstance(expr.op, tvm.ir.Op)
            and expr.op.name == "relax.call_tir"
        ):
            called.append(str(expr.args[0].name_hint))

    relax.analysis.post_order_visit(mod["main"], visit)
    return called


def count_operators(
    mod: tvm.IRModule, algorithm: str, convolutions: list[str], wants_integers: bool = False
) -> Operators:
    """Count what the lowered functions compute, by their blocks and not by their names.

    wants_integers: a convolution of float32 is then not as asked.
    """
    called = called_functions(mod)
    blocks_by_name = {name: convolution_blocks(mod[name]) for name in set(called)}
    kinds = [kind for name in called for kind in blocks_by_name[name]]
    as_depthwise = kinds.count("depthwise")
    summed = [name for name in called if integer.sums_integers(mod[name])]
    integer_kinds = [kind for name in summed for kind in blocks_by_name[name]]
    of_integers = sum(kind in (algorithm, "depthwise") for kind in integer_kinds)
    as_asked = (integer_kinds if wants_integers else kinds).count(algorithm)
    reasons = [f"{kind}: TVM's own" for kind in convolutions if kind != "conv2d"]
    if wants_integers:
        reasons += ["conv2d: float32, its input or weights are not 8-bit integers"] * (
            kinds.count(algorithm) + as_depthwise - of_integers
        )
    missing = len(convolutions) - kinds.count(algorithm) - as_depthwise
    reasons += ["conv2d: its filter is not a constant"] * (
        missing - sum(kind != "conv2d" for kind in convolutions)
    )
    return Operators(len(convolutions), as_asked, as_depthwise, of_integers, tuple(reasons))


def convolution_blocks(func: tirx.PrimFunc) -> list[str]:
    """The names of a function's blocks that sum a convolution: direct, gemm, spatial_pack, depthwise."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    return [roles.name(sch, block) for block in roles.find(sch, *roles.CONVOLUTION_ROLES)]
