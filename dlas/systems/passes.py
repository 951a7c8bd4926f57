"""Relax passes: give every convolution its algorithm, fuse, and schedule every function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType

import numpy as np
import tvm
from tvm import relax, s_tir, te, tirx

from dlas.algorithms import blocks, depthwise, direct, gemm, spatial_pack
from dlas.algorithms.convolution import Conv2d, Tile
from dlas.errors import ScheduleError, UsageError
from dlas.systems import census, half, integers, sparse, tiles
from dlas.systems.census import Operators
from dlas.systems.schedules import depthwise as depthwise_schedule
from dlas.systems.schedules import integer, minimal, roles, scheduled
from dlas.systems.schedules import sparse as sparse_schedule
from dlas.values import Compiler

ALGORITHMS: Mapping[str, ModuleType] = {"direct": direct, "gemm": gemm, "spatial_pack": spatial_pack}
FLOAT32_BYTES = 4
ARITHMETIC = {  # what is computed with, in words; of integers, `integers.describe` says more
    "fp32": "float32",
    "fp16": half.ARITHMETIC,
    "int8": "8-bit integers",
    "int8_ort_default": "8-bit integers",
}


def schedule_by_hand(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """The part of the hand schedule that a function is for. Raises what TVM raises where it does not fit."""
    if integer.sums_integers(func):
        return integer.schedule(func, compiler)
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    if roles.find(sch, "sparse"):
        return sparse_schedule.schedule(func, compiler)
    if roles.find(sch, "depthwise"):
        return depthwise_schedule.schedule(func, compiler)
    return scheduled.schedule(func, compiler)


SCHEDULES: Mapping[str, Callable[[tirx.PrimFunc, Compiler], tirx.PrimFunc]] = {
    "minimal": minimal.schedule,
    "scheduled": schedule_by_hand,
}


def lower(
    mod: tvm.IRModule,
    algorithm: str,
    schedule: str,
    compiler: Compiler,
    precision: str = "fp32",
    format: str = "dense",
) -> tuple[tvm.IRModule, Operators]:
    """Lower a Relax module to scheduled functions.

    precision is a key of ARITHMETIC, format one of `sparse.FORMATS`, dense where precision is not fp32; mod
    is as from `frontend.to_relax`, or for int8 from `quantized.import_quantized`. Raises ScheduleError rather
    than leave a function unscheduled, and ModelError for a weight that the precision cannot hold.
    """
    if precision not in ARITHMETIC:
        raise UsageError(f"unknown precision {precision!r}", f"choose one of {', '.join(ARITHMETIC)}")
    if algorithm not in ALGORITHMS:
        raise UsageError(f"unknown algorithm {algorithm!r}", f"choose one of {', '.join(ALGORITHMS)}")
    if format not in sparse.FORMATS:
        raise UsageError(f"unknown format {format!r}", f"choose one of {', '.join(sparse.FORMATS)}")
    if format != "dense" and precision != "fp32":
        raise UsageError(f"{format} kernels compute float32, not {precision}", "choose fp32, or dense")
    convolutions, sparsity, layout = census.find_convolutions(mod), census.measure_sparsity(mod), "nchw"
    parameters, _ = census.count_constants(mod)
    if precision.startswith("int8"):
        mod, layout = integers.compute_with_integers(mod, algorithm, compiler), "nhwc"
    transform = relax.transform
    mod = tvm.transform.Sequential(
        [
            transform.LegalizeOps({"relax.nn.conv2d": legalize_conv2d(algorithm, compiler, format)}),
            transform.AnnotateTIROpPattern(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
    )(mod)
    if precision == "fp16":
        mod = half.store_half(mod)
    operators = census.count_operators(mod, algorithm, convolutions, layout == "nhwc", format)
    words = ARITHMETIC[precision]
    if layout == "nhwc":
        dot_products = operators.integer > operators.depthwise and schedule == "scheduled"
        words = integers.describe(compiler, operators.integer > 0, dot_products)
    return schedule_functions(mod, schedule, compiler), replace(
        operators,
        weight_sparsity_fraction=sparsity.weights_fraction,
        mac_sparsity_fraction=sparsity.macs_fraction,
        arithmetic=words,
        layout=layout,
        weight_bytes=census.count_constants(mod)[1],
        dense_weight_bytes=FLOAT32_BYTES * parameters,
    )


def legalize_conv2d(
    algorithm: str, compiler: Compiler, format: str
) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """The rule that replaces relax.nn.conv2d by the cell's algorithm, its filter packed on the host."""

    def replace(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        x, weight = call.args
        if not isinstance(weight, tvm.ir.GenericConst):
            return call.op.get_attr("FLegalize")(builder, call)
        conv = geometry(call)
        values = weight.value.numpy()
        if conv.depthwise:
            function = depthwise.conv2d(conv, tiles.choose_depthwise(conv, compiler))
            return call_kernel(builder, function, "conv2d_depthwise", conv, x, values)
        chosen = sparse.choose_format(values, conv, compiler, algorithm) if format == "auto" else format
        if chosen != "dense":
            function, arrays = sparse.convolution(values, conv, algorithm, chosen, compiler)
            return call_kernel(builder, function, f"conv2d_{chosen}_{algorithm}", conv, x, *arrays)
        tile = tiles.choose(conv, compiler)
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


def call_kernel(
    builder: relax.BlockBuilder,
    function: tirx.PrimFunc,
    name: str,
    conv: Conv2d,
    x: relax.Expr,
    *constants: np.ndarray,
) -> relax.Expr:
    """A call of a function that computes a convolution, ready to be fused as that of `emit`."""
    shape = relax.TensorType((conv.N, conv.CO, conv.OH, conv.OW), "float32")
    function = function.without_attr(
        "global_symbol"
    )  # what is exported stays, also once it is fused into another
    return relax.call_tir(builder.add_func(function, name), [x, *map(relax.const, constants)], shape)


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
