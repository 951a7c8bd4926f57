"""The design space of dense convolutions: how tiles follow each other, and what a thread gets.

It serves activations in NCHW and in blocks of channels. The tile is part of the compute, and how loops nest
is the sketch; what is sampled within it are the extents of the two loops that are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod
from typing import Any, NamedTuple

import tvm
from tvm import s_tir, tirx

from dlas.algorithms.blocks import NCHW_AXES
from dlas.systems.schedules import roles, scheduled
from dlas.values import Compiler

TASKS = 8  # enough for the threads of a small device, whatever number a search ran with
FLOAT32_BYTES = 4
ORDERS = ("channel", "image")
PLACES = ("before", "task")
Decisions = Sequence[Sequence[int]]


class Sketch(NamedTuple):
    """How loops nest.

    order: channel takes one channel block after another and all places of a task for each, image the other
    way round. staged: where padding and packing is done, before all tasks, or for what each task reads.
    """

    order: str = "channel"
    staged: str = "before"


def schedule(func: tirx.PrimFunc, compiler: Compiler, sketch: Sketch, decisions: Decisions) -> tirx.PrimFunc:
    """Schedule a function with one dense convolution. Raises what TVM raises where a step does not fit.

    decisions: of `apply`.
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    apply(sch, compiler, sketch, decisions)
    return sch.mod["main"]


def apply(sch: s_tir.Schedule, compiler: Compiler, sketch: Sketch, decisions: Decisions = ()) -> None:
    """Schedule the function `main`.

    decisions: how the loops over channel blocks and over rows of tiles (of a single row: over its tiles) are
    cut, two factors each: how many tasks, and how long each is. Without them they are sampled.
    """
    [block] = roles.find(sch, "accumulate")
    output = scheduled.fuse_epilogue(sch, block)
    staged = roles.find(sch, "pad", "pack")
    scheduled.schedule_others(sch, {roles.name(sch, each) for each in (*staged, block, output)})
    task, tile = cut(sch, block, output, sketch.order, decisions)
    sch.set_scope(block, 0, "local")
    sch.compute_at(block, tile, preserve_unit_loops=True)
    accumulate(sch, block, compiler.vector_lanes)
    for each in reversed(staged):  # what packs before what pads for it
        stage(sch, each, task if sketch.staged == "task" else None)


def cut(sch: s_tir.Schedule, block: Any, output: Any, order: str, decisions: Decisions) -> tuple[Any, Any]:
    """Cut the output into tasks of tiles; returns the loop over tasks, and that around a tile."""
    height, width, lanes = roles.tile_extents(sch, block)
    n, o, h, w, *lane = sch.get_loops(output)
    o, inner = sch.split(o, [None, lanes // roles.extent(sch, lane[0]) if lane else lanes])
    h, row = sch.split(h, [None, height])
    w, column = sch.split(w, [None, width])
    is_row = roles.extent(sch, h) == 1
    channels, across = [[each] for each in decisions] or [[], []]
    tasks, o = sch.split(o, sample_cut(sch, o, *channels))
    rows, places = sch.split(w if is_row else h, sample_cut(sch, w if is_row else h, *across))
    others = [h, places] if is_row else [places, w]
    walk = [o, *others] if order == "channel" else [*others, o]
    in_tile = [row, column, inner, *lane] if lane else [inner, row, column]
    sch.reorder(n, rows, tasks, *walk, *in_tile)
    task = sch.fuse(n, rows, tasks)
    sch.parallel(task)
    *unrolled, last = in_tile
    sch.vectorize(last)
    for loop in unrolled if lane else ():
        sch.unroll(loop)
    return task, walk[-1]


def sample_cut(sch: s_tir.Schedule, loop: Any, decision: Sequence[int] | None = None) -> Any:
    """Two factors of a loop's extent, outer and inner; sampled where they are not given.

    Raises ValueError for given ones of another extent: TVM would take them, and compute past the end.
    """
    extent = roles.extent(sch, loop)
    if decision is not None and prod(decision) != extent:
        raise ValueError(f"{list(decision)} do not cut a loop of {extent}")
    return sch.sample_perfect_tile(loop, 2, extent, None if decision is None else list(decision))


def parts(elements: int, compiler: Compiler) -> float:
    """In how many parts so many inputs are to be taken so that each fits half of the cache; at least one."""
    return max(1.0, 2 * elements * FLOAT32_BYTES / compiler.l2_bytes)


def divisor(number: int, wanted: float) -> int:
    """The divisor that is nearest to what is wanted, as a ratio."""
    return min((n for n in range(1, number + 1) if number % n == 0), key=lambda n: abs(log(n / wanted)))


def share(channels: int, places: int, wanted: float, by_rows: bool) -> Decisions:
    """How the hand cuts the loops over channel blocks and rows of tiles: in enough tasks, block by block.

    wanted: `parts` of the rows. by_rows: a task has all channels of its rows, where rows make enough tasks.
    """
    rows = divisor(places, max(wanted, TASKS if by_rows else TASKS / channels))
    tasks = channels
    if by_rows:
        tasks = next(
            n for n in range(1, channels + 1) if channels % n == 0 and n * rows >= min(TASKS, channels)
        )
    return [[tasks, channels // tasks], [rows, places // rows]]


def decide(func: tirx.PrimFunc, compiler: Compiler) -> tuple[Sketch, Decisions]:
    """What the hand schedule does: one channel block, and as many rows as the cache holds inputs of.

    Where those make enough tasks, each pads its own rows, for all channels.
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    [block] = roles.find(sch, "accumulate")
    _, channels, down, across = roles.extents(sch, block)[: roles.TILE_AXES]
    places = across if down == 1 else down
    inputs = sch.get(block).reads[0].source
    wanted = parts(prod(int(extent) for extent in inputs.shape), compiler)
    by_rows = bool(roles.find(sch, "pad")) and divisor(places, max(wanted, TASKS)) >= TASKS
    return Sketch(staged="task" if by_rows else "before"), share(channels, places, wanted, by_rows)


def accumulate(sch: s_tir.Schedule, block: Any, vector_lanes: int) -> None:
    """Keep the sums of a tile in registers.

    The channels of a block are unrolled inside the filter's loops: were taps unrolled instead, LLVM would
    keep what neighbouring ones share, and sums would go to the stack.
    """
    loops = sch.get_loops(block)
    *_, height, width, lanes, ci, kh, kw = loops
    inner = vector_lanes if _reads_blocks(sch, block) else 1
    ci, channel = sch.split(ci, [None, inner])
    vectors, lane = sch.split(lanes, [None, vector_lanes])
    sch.reorder(ci, kh, kw, channel, height, width, vectors, lane)
    sch.vectorize(lane)
    for loop in (channel, height, width, vectors):
        sch.unroll(loop)
    zeros = sch.decompose_reduction(block, ci)
    for loop in sch.get_loops(zeros)[-4:-1]:
        sch.unroll(loop)


def stage(sch: s_tir.Schedule, block: Any, task: Any | None) -> None:
    """Pad or pack inside the loop of a task, or all of it before."""
    if task is None:
        scheduled.parallelize(sch, block, roles.spatial_loops(sch, block)[:-2])
    else:
        sch.compute_at(block, task, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(block)[-1])


def _reads_blocks(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether the filter's input channels are in blocks."""
    return any(len(region.source.shape) == NCHW_AXES + 2 for region in sch.get(block).reads[1:2])
