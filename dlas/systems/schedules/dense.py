"""The design space of dense convolutions: how tiles follow each other, and what a thread gets.

It serves activations in NCHW and in blocks of channels. The tile is part of the compute, and how loops nest
is the sketch; what is sampled within it are the extents of the two loops that are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import tvm
from tvm import s_tir, tirx

from dlas.algorithms.blocks import NCHW_AXES
from dlas.systems.schedules import fetch, roles, scheduled
from dlas.values import Compiler

TASKS = 8  # enough for the threads of a small device, whatever number a search ran with
FLOAT32_BYTES = 4
L1_BYTES = 20 * 1024  # of a filter's part, beside its inputs and the next part
FEW_PLACES = 16  # of a channel block's tiles: the first one, whose filter is not there yet, is much of all
TILE_LOOPS = 3  # over the rows, columns and lanes of a tile
ORDERS = ("channel", "image")
PLACES = ("before", "task")
Decisions = Sequence[Sequence[int]]


class Sketch(NamedTuple):
    """How loops nest.

    order: channel takes one channel block after another and all places of a task for each, image the other
    way round. staged: where padding and packing is done, before all tasks, or for what each task reads.
    parts: in how many pieces the input channels are summed, each for all places of a task, so that its filter
    stays in L1; several are for the order channel.
    """

    order: str = "channel"
    staged: str = "before"
    parts: int = 1


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
    cut, two factors each: how many tasks, and how long each is. Without them they are sampled. Raises
    ValueError for a sketch that is none.
    """
    is_known = sketch.order in ORDERS and sketch.staged in PLACES and sketch.parts >= 1
    if not is_known or (sketch.parts > 1 and sketch.order != ORDERS[0]):
        raise ValueError(f"{sketch} is no sketch")
    [block] = roles.find(sch, "accumulate")
    output = scheduled.fuse_epilogue(sch, block)
    staged = roles.find(sch, "pad", "pack")
    scheduled.schedule_others(sch, {roles.name(sch, each) for each in (*staged, block, output)})
    task, tile = cut(sch, block, output, sketch.order, decisions)
    if sketch.parts == 1:
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, tile, preserve_unit_loops=True)
        accumulate(sch, block, compiler.vector_lanes)
    else:
        accumulate_parts(sch, block, sketch.parts, (sch.get_loops(output)[1], tile), compiler.vector_lanes)
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


def divisor(number: int, least: float) -> int:
    """The smallest divisor that is as large as that; the number itself, where none is."""
    return next((n for n in range(1, number) if number % n == 0 and n >= least), number)


def share(channels: int, places: int, wanted: float, by_rows: bool) -> Decisions:
    """How the hand cuts the loops over channel blocks and rows of tiles: in enough tasks, block by block.

    wanted: `parts` of the rows. by_rows: a task has all channels of its rows, where rows make enough tasks.
    """
    rows = divisor(places, max(wanted, TASKS if by_rows else TASKS / channels))
    tasks = divisor(channels, TASKS / rows) if by_rows else channels
    return [[tasks, channels // tasks], [rows, places // rows]]


def filter_parts(sums: Sequence[int], lanes: int, block: int) -> int:
    """In how many parts to take the filter of a channel block, so that each stays in L1; 1 is all at once.

    Pointwise ones gained nothing. sums: CG, KH, KW. block: of CG, 0 where that is in none.
    """
    if block == 0 or prod(sums) == sums[0]:
        return 1
    return divisor(sums[0] // block, FLOAT32_BYTES * prod(sums) * lanes / L1_BYTES)


def decide(func: tirx.PrimFunc, compiler: Compiler) -> tuple[Sketch, Decisions]:
    """What the hand schedule does: one channel block, and as many rows as the cache holds inputs of.

    Where those make enough tasks, each pads its own rows, for all channels.
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    [block] = roles.find(sch, "accumulate")
    _, channels, down, across = roles.extents(sch, block)[: roles.TILE_AXES]
    places = across if down == 1 else down
    lanes, sums = roles.tile_extents(sch, block)[-1], roles.sum_extents(sch, block)
    inner = compiler.vector_lanes if _reads_blocks(sch, block) else 0
    taken = filter_parts(sums, lanes, inner)
    if taken > 1 and down * across <= FEW_PLACES:
        return Sketch(parts=taken), share(channels, places, 1, by_rows=False)
    inputs = sch.get(block).reads[0].source
    wanted = parts(prod(int(extent) for extent in inputs.shape), compiler)
    by_rows = bool(roles.find(sch, "pad")) and places >= max(wanted, TASKS)
    return Sketch(staged="task" if by_rows else "before"), share(channels, places, wanted, by_rows)


def accumulate(sch: s_tir.Schedule, block: Any, vector_lanes: int, fetches: bool = False) -> None:
    """Keep the sums of a tile in registers.

    The channels of a block are unrolled inside the filter's loops: were taps unrolled instead, LLVM would
    keep what neighbouring ones share, and sums would go to the stack. fetches: as in `fetch.ahead`.
    """
    *_, height, width, lanes, ci, kh, kw = sch.get_loops(block)
    inner = vector_lanes if _reads_blocks(sch, block) else 1
    ci, channel = sch.split(ci, [None, inner])
    vectors, lane = sch.split(lanes, [None, vector_lanes])
    sch.reorder(ci, kh, kw, channel, height, width, vectors, lane)
    sch.vectorize(lane)
    for loop in (channel, height, width, vectors):
        sch.unroll(loop)
    if fetches:
        sch.annotate(channel, fetch.MARK, 1)
    _unroll(sch, sch.decompose_reduction(block, ci))


def accumulate_parts(
    sch: s_tir.Schedule, block: Any, parts: int, loops: tuple[Any, Any], vector_lanes: int
) -> None:
    """Sum each part of the input channels for all places; where these are few, fetch the next part meanwhile.

    loops: over channel blocks, in which that is done, and around a tile, in which its parts are added up.
    """
    channel_block, tile = loops
    _, _, down, across = roles.extents(sch, block)[: roles.TILE_AXES]
    *_, ci, _, _ = sch.get_loops(block)
    part, _ = sch.split(ci, [parts, None])
    partial = sch.rfactor(part, 0)
    _add_parts(sch, block, tile, vector_lanes)
    sch.compute_at(partial, channel_block, preserve_unit_loops=True)
    stored = sch.cache_write(partial, 0, "local")
    *_, column, _, _, _, _, _, _ = sch.get_loops(partial)  # and the tile's, and those of the sum
    sch.reverse_compute_at(stored, column, preserve_unit_loops=True)
    sch.vectorize(sch.split(sch.get_loops(stored)[-1], [None, vector_lanes])[1])
    _unroll(sch, stored)
    accumulate(sch, partial, vector_lanes, fetches=down * across <= FEW_PLACES)


def _add_parts(sch: s_tir.Schedule, block: Any, tile: Any, vector_lanes: int) -> None:
    sch.set_scope(block, 0, "local")
    sch.compute_at(block, tile, preserve_unit_loops=True)
    part, *_, lanes = sch.get_loops(block)[-1 - roles.TILE_AXES - TILE_LOOPS :]
    sch.vectorize(sch.split(lanes, [None, vector_lanes])[1])
    _unroll(sch, block)
    _unroll(sch, sch.decompose_reduction(block, part))


def _unroll(sch: s_tir.Schedule, block: Any) -> None:
    """Unroll the loops over a tile: its rows, its columns, and vectors of its lanes, which are in vectors."""
    for loop in sch.get_loops(block)[-1 - TILE_LOOPS : -1]:
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
