"""Relax passes: give every convolution its algorithm, fuse, and schedule every function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import tvm
from tvm import relax, s_tir, te, tirx

from dlas.algorithms import blocks, depthwise, direct, gemm, spatial_pack
from dlas.algorithms.convolution import Conv2d, Tile
from dlas.errors import ScheduleError, UsageError
from dlas.systems import tiles
from dlas.systems.schedules import minimal, roles, scheduled
from dlas.values import Compiler

ALGORITHMS: Mapping[str, ModuleType] = {"direct": direct, "gemm": gemm, "spatial_pack": spatial_pack}
SCHEDULES: Mapping[str, Callable[[tirx.PrimFunc, Compiler], tirx.PrimFunc]] = {
    "minimal": minimal.schedule,
    "scheduled": scheduled.schedule,
}
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose")


@dataclass(frozen=True)
class Operators:
    """What became of a network's convolutions. as_asked ran the algorithm of the cell."""

    total: int
    as_asked: int
    depthwise: int
    fallbacks: tuple[str, ...]


def lower(
    mod: tvm.IRModule, algorithm: str, schedule: str, compiler: Compiler
) -> tuple[tvm.IRModule, Operators]:
    """Lower a Relax module to scheduled functions.

    Raises ScheduleError rather than leave a function unscheduled.
    """
    convolutions = find_convolutions(mod)
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
    operators = count_operators(mod, algorithm, convolutions)
    return schedule_functions(mod, schedule, compiler), operators


def legalize_conv2d(
    algorithm: str, compiler: Compiler
) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """The rule that replaces relax.nn.conv2d by the cell's algorithm, its filter packed on the host."""
    if algorithm not in ALGORITHMS:
        raise UsageError(f"unknown algorithm {algorithm!r}", f"choose one of {', '.join(ALGORITHMS)}")

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
        try:
            done = SCHEDULES[name](func, compiler)
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


def count_operators(mod: tvm.IRModule, algorithm: str, convolutions: list[str]) -> Operators:
    """Count what the lowered functions compute, by their blocks and not by their names."""
    called = called_functions(mod)
    blocks_by_name = {name: convolution_blocks(mod[name]) for name in set(called)}
    kinds = [kind for name in called for kind in blocks_by_name[name]]
    as_asked, as_depthwise = kinds.count(algorithm), kinds.count("depthwise")
    missing = len(convolutions) - as_asked - as_depthwise
    reasons = [f"{kind}: TVM's own" for kind in convolutions if kind != "conv2d"]
    reasons += ["conv2d: its filter is not a constant"] * (missing - len(reasons))
    return Operators(len(convolutions), as_asked, as_depthwise, tuple(reasons))


def convolution_blocks(func: tirx.PrimFunc) -> list[str]:
    """The names of a function's blocks that sum a convolution: direct, gemm, spatial_pack, depthwise."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    return [roles.name(sch, block) for block in roles.find(sch, *roles.CONVOLUTION_ROLES)]
