"""The hand schedule of sparse convolutions: the sums of a tile in registers, from one nonzero to the next."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

from dlas.systems.schedules import dense, roles, runs, scheduled
from dlas.values import Compiler

SHARED_TILES = 16  # so many tiles are shared out among threads whole; fewer, with parts of their channels
AXES = 6  # of a sparse block: N, output channel, tile row, tile column, tile, part of the input channels


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule a function with one sparse convolution. Raises what TVM raises where a step does not fit."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    apply(sch, compiler)
    return sch.mod["main"]


def apply(sch: s_tir.Schedule, compiler: Compiler, decisions: dense.Decisions | None = None) -> None:
    """Schedule the function `main`.

    decisions: how the loop over channels is cut, in how many parts and how long each is; sampled where there
    are none in it, by hand without it.
    """
    [block] = roles.find(sch, "sparse")
    inputs = roles.find(sch, "pad", "pack")
    output = scheduled.fuse_epilogue(sch, block)
    scheduled.schedule_others(sch, {roles.name(sch, each) for each in (*inputs, block, output)})
    is_taken_in_parts = roles.is_reduction(sch, block)
    has_all_channels, task, channel = share_tiles(sch, block, output, decisions)
    # A tile whose sums are complete goes to the output from registers, while it is the only one there is.
    sch.compute_at(block, task if is_taken_in_parts else channel, preserve_unit_loops=True)
    for padded in roles.find(sch, "pad"):
        runs.pad(sch, padded)
    for packed in roles.find(sch, "pack"):
        runs.copy(sch, packed, task if has_all_channels else None)
    zeros = runs.steps(sch, take_parts(sch, block)) if is_taken_in_parts else []
    for step in (*zeros, *runs.steps(sch, block)):
        runs.compute(sch, step, compiler.vector_lanes)


def share_tiles(
    sch: s_tir.Schedule, block: Any, output: Any, decisions: dense.Decisions | None
) -> tuple[bool, Any, Any]:
    """Share out the output among threads, by tiles, or by tiles and channels where there are few.

    Returns whether a task has all channels of its tile, the loop over tasks, and that over a task's channels.
    """
    batch, channels, down, across, *_ = roles.extents(sch, block)
    n, o, h, w = runs.cut(sch, block, output)
    has_all_channels = batch * down * across >= SHARED_TILES
    if decisions is None:
        factors = [channel_parts(channels, batch * down * across), None]
    else:
        factors = dense.sample_cut(sch, o, *decisions)
    part, o = sch.split(o, factors)
    sch.reorder(n, h, w, part, o)
    task = sch.fuse(n, h, w, part)
    sch.parallel(task)
    return has_all_channels, task, o


def channel_parts(channels: int, tiles: int) -> int:
    """In how many parts each of so many tiles has its channels shared out by hand."""
    wanted = 1 if tiles >= SHARED_TILES else scheduled.PARALLEL_TASKS // tiles
    return next((parts for parts in range(wanted, channels) if channels % parts == 0), channels)


def take_parts(sch: s_tir.Schedule, block: Any) -> Any:
    """Take one part of the input channels after another, for all rows; returns the block of first zeros."""
    *outer, part = sch.get_loops(block)
    sch.reorder(part, *outer[-AXES + 1 :])
    return sch.decompose_reduction(block, part)
