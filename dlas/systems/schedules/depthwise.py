"""The hand schedule of depthwise convolutions: a channel is padded and convolved while it is in the cache."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from dlas.systems.schedules import conversions, dense, roles, runs, scheduled
from dlas.values import Compiler

# Multiply-adds of a tile without a loop, by architecture: more would be code that no cache holds. On Neon any
# are too many: inputs of several taps do not fit the registers beside the sums, and no operand is a load.
UNROLLED = {"x86_64": 1024, "aarch64": 0}


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule a function with a depthwise convolution. Raises what TVM raises where a step does not fit."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    apply(sch, compiler)
    return sch.mod["main"]


def apply(sch: s_tir.Schedule, compiler: Compiler) -> None:
    """Schedule the function `main`."""
    [block] = roles.find(sch, "depthwise")
    output = scheduled.fuse_epilogue(sch, block)
    padded = roles.find(sch, "pad")
    widened = [each for each in conversions.operands(sch, block) if each is not None]
    scheduled.schedule_others(sch, {roles.name(sch, each) for each in (*padded, *widened, block, output)})
    n, o, h, w = runs.cut(sch, block, output)
    channel, tile = sch.fuse(n, o), sch.fuse(h, w)
    sch.parallel(channel)
    sch.compute_at(block, tile, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    for each in padded:
        runs.pad(sch, each, channel)
    for each in widened:
        scheduled.convert(sch, each)
    [sums] = runs.steps(sch, block)
    accumulate_in_registers(sch, sums, compiler.vector_lanes, UNROLLED[compiler.arch])


def accumulate_in_registers(sch: s_tir.Schedule, sums: Any, vector_lanes: int, unrolled: int) -> None:
    """Unroll the tile, so that the sums stay in registers, and the filter, so that offsets are constants.

    unrolled: multiply-adds up to which the filter is.
    """
    run, place, *filter_ = sch.get_loops(sums)
    vectors, lanes = sch.split(place, [None, vector_lanes])
    sch.reorder(*filter_, run, vectors, lanes)
    sch.vectorize(lanes)
    for loop in (run, vectors):
        sch.unroll(loop)
    if prod(roles.extent(sch, loop) for loop in (*filter_, run, vectors)) <= unrolled:
        for loop in filter_:
            sch.unroll(loop)
    zeros = sch.decompose_reduction(sums, filter_[0])
    for loop in sch.get_loops(zeros)[:-1]:
        sch.unroll(loop)


def schedule_blocked(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule a depthwise convolution in blocks of channels: a task has the whole map of a block.

    Of few blocks, a part of it.
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    [block] = roles.find(sch, "depthwise_blocked")
    n, blocks, rows = roles.extents(sch, block)[:3]
    apply_blocked(sch, compiler, [share(n * blocks, rows)])
    return sch.mod["main"]


def share(blocks: int, rows: int) -> tuple[int, int]:
    """How the hand cuts the rows of tiles of so many blocks: in enough tasks."""
    tasks = dense.divisor(rows, dense.TASKS / blocks)
    return tasks, rows // tasks


def apply_blocked(sch: s_tir.Schedule, compiler: Compiler, decisions: dense.Decisions = ()) -> None:
    """Schedule the function `main`: a task has some rows of a block of channels, which it pads for itself.

    decisions: how the loop over rows of tiles is cut. Without them it is sampled.
    """
    [block] = roles.find(sch, "depthwise_blocked")
    output = scheduled.fuse_epilogue(sch, block)
    padded = roles.find(sch, "pad")
    scheduled.schedule_others(sch, {roles.name(sch, each) for each in (*padded, block, output)})
    height, width, _ = roles.tile_extents(sch, block)
    n, o, h, w, lane = sch.get_loops(output)
    h, row = sch.split(h, [None, height])
    w, column = sch.split(w, [None, width])
    rows, h = sch.split(h, dense.sample_cut(sch, h, *decisions))
    sch.reorder(n, o, rows, h, w, row, column, lane)
    task = sch.fuse(n, o, rows)
    sch.parallel(task)
    sch.vectorize(lane)
    for loop in (row, column):
        sch.unroll(loop)
    sch.set_scope(block, 0, "local")
    sch.compute_at(block, w, preserve_unit_loops=True)
    *_, down, across, lane, kh, kw = sch.get_loops(block)
    sch.reorder(kh, kw, down, across, lane)
    sch.vectorize(lane)
    for loop in (down, across):
        sch.unroll(loop)
    zeros = sch.decompose_reduction(block, kh)
    for loop in sch.get_loops(zeros)[-3:-1]:
        sch.unroll(loop)
    for each in padded:
        sch.compute_at(each, task, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(each)[-1])
