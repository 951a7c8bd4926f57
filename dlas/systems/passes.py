"""Relax passes: give every convolution its algorithm, fuse, and schedule every function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import tvm
from tvm import relax, s_tir, tirx

from dlas.algorithms.blocks import NCHW_AXES
from dlas.errors import ScheduleError, UsageError
from dlas.systems import census, half, integers, legalize, sparse
from dlas.systems import layout as layouts
from dlas.systems.autoschedule import space
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.systems.census import Operators
from dlas.systems.export import KEEP_LOOPS, first_line
from dlas.systems.kernels import ALGORITHMS
from dlas.systems.schedules import dense, fetch, gpu, integer, minimal, roles, scheduled
from dlas.systems.schedules import depthwise as depthwise_schedule
from dlas.systems.schedules import sparse as sparse_schedule
from dlas.values import Compiler

FLOAT32_BYTES = 4
ARITHMETIC = {  # what is computed with, in words; of integers, `integers.describe` says more
    "fp32": "float32",
    "fp16": half.ARITHMETIC,
    "int8": "8-bit integers",
    "int8_ort_default": "8-bit integers",
}
TUNED = "tuned"  # the hand schedule, but for the convolutions that choices are given for


def schedule_function(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """The part of the hand schedule that a function is for, or what was chosen for it.

    Raises what TVM raises where it does not fit.
    """
    if integer.sums_integers(func):
        return integer.schedule(func, compiler)
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    choice = space.choice_of(sch)
    if choice is not None:
        space.apply(sch, compiler, choice)
        return sch.mod["main"]
    if roles.find(sch, "sparse"):
        return sparse_schedule.schedule(func, compiler)
    if roles.find(sch, "depthwise"):
        return depthwise_schedule.schedule(func, compiler)
    if roles.find(sch, "depthwise_blocked"):
        return depthwise_schedule.schedule_blocked(func, compiler)
    if any(_has_blocks(sch, block) for block in roles.find(sch, "accumulate")):
        return dense.schedule(func, compiler, *dense.decide(func, compiler))
    return scheduled.schedule(func, compiler)


def _has_blocks(sch: s_tir.Schedule, convolution: s_tir.schedule.SBlockRV) -> bool:
    """Whether what a block of role accumulate computes goes to channels in blocks."""
    [reader] = sch.get_consumers(convolution)
    return len(sch.get(reader).iter_vars) > NCHW_AXES


SCHEDULES: Mapping[str, Callable[[tirx.PrimFunc, Compiler], tirx.PrimFunc]] = {
    "minimal": minimal.schedule,
    "scheduled": schedule_function,
}


def schedules(compiler: Compiler) -> Mapping[str, Callable[[tirx.PrimFunc, Compiler], tirx.PrimFunc]]:
    """By the name of a cell's tuning."""
    return gpu.SCHEDULES if compiler.is_gpu else SCHEDULES


def lower(
    mod: tvm.IRModule,
    algorithm: str,
    schedule: str,
    compiler: Compiler,
    precision: str = "fp32",
    format: str = "dense",
    choices: Mapping[str, Choice] | None = None,
) -> tuple[tvm.IRModule, Operators]:
    """Lower a Relax module to scheduled functions.

    precision is a key of ARITHMETIC, format one of `sparse.FORMATS`, dense where precision is not fp32, or
    fp16 on a GPU; mod is as from `frontend.to_relax`, or for int8 from `quantized.import_quantized`. choices:
    by workload, what a search chose, where schedule is TUNED; other convolutions have the hand schedule.
    Raises ScheduleError rather than leave a function unscheduled, and ModelError for a weight that the
    precision cannot hold.
    """
    chosen = choices if choices and schedule == TUNED else {}
    if precision not in ARITHMETIC:
        raise UsageError(f"unknown precision {precision!r}", f"choose one of {', '.join(ARITHMETIC)}")
    if algorithm not in ALGORITHMS:
        raise UsageError(f"unknown algorithm {algorithm!r}", f"choose one of {', '.join(ALGORITHMS)}")
    if format not in sparse.FORMATS:
        raise UsageError(f"unknown format {format!r}", f"choose one of {', '.join(sparse.FORMATS)}")
    if format != "dense" and precision != "fp32" and not (compiler.is_gpu and precision == "fp16"):
        raise UsageError(f"{format} kernels compute float32, not {precision}", "choose fp32, or dense")
    convolutions, sparsity, layout = census.find_convolutions(mod), census.measure_sparsity(mod), "nchw"
    parameters, _ = census.count_constants(mod)
    if format == "blocked":
        mod = lay_out(mod, format, compiler)
        layout = layouts.name(compiler.vector_lanes if layouts.has_blocks(mod) else 0).lower()
    if precision.startswith("int8"):
        mod, layout = integers.compute_with_integers(mod, algorithm, compiler), "nhwc"
    workloads = legalize.workloads(mod["main"], algorithm, format, compiler) if chosen else []
    mod = fuse(mod, algorithm, compiler, format, chosen)
    if precision == "fp16":
        mod = half.store_half(mod)
    operators = census.count_operators(mod, algorithm, convolutions, layout == "nhwc", format)
    tuned = sum(workload.id in chosen for workload in workloads)
    weight_bytes = census.count_constants(mod)[1]
    words = ARITHMETIC[precision]
    if layout == "nhwc":
        dot_products = operators.integer > operators.depthwise and schedule != "minimal"
        words = integers.describe(compiler, operators.integer > 0, dot_products)
    mod = schedule_functions(mod, schedule, compiler)
    if format == "blocked":
        mod = mod.with_attr(KEEP_LOOPS, True)
    return mod, replace(
        operators,
        tuned=tuned,
        weight_sparsity_fraction=sparsity.weights_fraction,
        mac_sparsity_fraction=sparsity.macs_fraction,
        arithmetic=words,
        layout=layout,
        weight_bytes=weight_bytes,
        dense_weight_bytes=FLOAT32_BYTES * parameters,
    )


def fuse(
    mod: tvm.IRModule, algorithm: str, compiler: Compiler, format: str, choices: Mapping[str, Choice]
) -> tvm.IRModule:
    """The module as functions of a kernel and what is fused with it, none of them scheduled.

    A map in blocks that is taken as one row stays where it is: were that fused, each element would be looked
    up by divisions.
    """
    transform = relax.transform
    rules = {
        "relax.nn.conv2d": legalize.legalize_conv2d(algorithm, compiler, format, choices),
        "relax.sigmoid": legalize.legalize_sigmoid,
    }
    steps = [
        transform.LegalizeOps(rules),
        *([transform.RewriteDataflowReshape()] if format == "blocked" else []),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    fused: tvm.IRModule = tvm.transform.Sequential(steps)(mod)
    return fused


def list_workloads(mod: tvm.IRModule, algorithm: str, format: str, compiler: Compiler) -> list[Workload]:
    """What a search is to tune of a float32 network: one for each convolution that it computes, in order."""
    return legalize.workloads(lay_out(mod, format, compiler)["main"], algorithm, format, compiler)


def lay_out(mod: tvm.IRModule, format: str, compiler: Compiler) -> tvm.IRModule:
    """The module with its activations as the format has them."""
    return layouts.block_channels(mod, compiler.vector_lanes) if format == "blocked" else mod


def schedule_functions(mod: tvm.IRModule, name: str, compiler: Compiler) -> tvm.IRModule:
    """Apply one schedule to every PrimFunc of the module."""
    if name not in (*SCHEDULES, TUNED):
        raise UsageError(f"unknown schedule {name!r}", f"choose one of {', '.join((*SCHEDULES, TUNED))}")
    schedule = schedules(compiler).get(name, schedule_function)
    result = mod.clone()
    for variable, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        try:
            done = fetch.ahead(schedule(func, compiler))
        except Exception as error:  # TVM raises many kinds; each means that this step does not apply
            raise ScheduleError(
                f"schedule {name} does not apply to {variable.name_hint}: {first_line(error)}",
                "see the cell's log",
            ) from error
        result[variable] = done.with_attr({"tirx.is_scheduled": True, "global_symbol": variable.name_hint})
    return result
