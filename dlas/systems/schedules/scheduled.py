"""The hand schedule: register tile, vector lanes, accumulators in registers, threads over tiles.

The three algorithms differ in what they read; their inner kernel is one, and so is its schedule.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import tvm
from tvm import s_tir, tirx

from dlas.systems.schedules import conversions, roles
from dlas.values import Compiler

PARALLEL_TASKS = 32  # enough to share out evenly among the threads of a small device
BLOCKED_AXES = 5  # of maps with channels in blocks of a vector
PARALLEL_OPERATIONS = 16384  # less work than this costs less than waking a thread


class Loops(NamedTuple):
    """The loop over a convolution's tiles, and those that its input is packed in and its filter widened in.

    None: all of it, before the convolution.
    """

    tile: Any
    packing: Any | None
    panel: Any | None


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule one function for a CPU. Raises what TVM raises where a step does not apply."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    convolutions = roles.find(sch, "accumulate")
    outputs = [fuse_epilogue(sch, block) for block in convolutions]
    inputs = roles.find(sch, "pad", "pack")
    operands = [widened_operands(sch, block) for block in convolutions]
    widened = [block for pair in operands for block in pair if block is not None]
    schedule_others(sch, {roles.name(sch, block) for block in (*inputs, *widened, *convolutions, *outputs)})
    for block, output, (data, panel) in zip(convolutions, outputs, operands, strict=True):
        loops = tile_output(sch, block, output, compiler.l2_bytes, panel is not None)
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, loops.tile, preserve_unit_loops=True)
        accumulate_in_registers(sch, block, compiler.vector_lanes)
        for packed in roles.find(sch, "pack"):
            schedule_packing(sch, packed, loops.packing)
        if panel is not None:
            schedule_panel(sch, panel, loops.panel)
        if data is not None:
            convert(sch, data)
    for block in roles.find(sch, "pad"):
        parallelize(sch, block, roles.spatial_loops(sch, block)[:-2])
    return sch.mod["main"]


def fuse_epilogue(sch: s_tir.Schedule, block: Any) -> Any:
    """Inline all element-wise steps after a convolution into the last of its own shape; return that one."""
    names = [roles.name(sch, b) for b in roles.blocks(sch)]
    after = roles.blocks(sch)[names.index(roles.name(sch, block)) + 1 :]
    shape = _written_shape(sch, after[0])
    own = [b for b in after if _written_shape(sch, b) == shape and not roles.is_reduction(sch, b)]
    for step in own[:-1]:
        sch.compute_inline(step)
    return own[-1]


def widened_operands(sch: s_tir.Schedule, block: Any) -> conversions.Operands:
    """The operands of a convolution to widen ahead of it.

    Not a filter that a single tile covers the image with: each of its values is read once.
    """
    operands = conversions.operands(sch, block)
    return operands._replace(filter=None) if _places(sch, block) == 1 else operands


def tile_output(sch: s_tir.Schedule, block: Any, output: Any, l2_bytes: int, has_panel: bool) -> Loops:
    """Cut the NCHW output into the block's tiles.

    A thread gets a place in the image and computes the tiles of all channel blocks there; or single tiles;
    or, of a filter to widen, one channel block and many places.
    """
    extents = roles.extents(sch, block)
    height, width, lanes = roles.tile_extents(sch, block)
    n, o, h, w = sch.get_loops(output)
    o, lane = sch.split(o, [None, lanes])
    h, row = sch.split(h, [None, height])
    w, column = sch.split(w, [None, width])
    filter_bytes = 4 * extents[1] * lanes * prod(roles.sum_extents(sch, block))
    # Filters that do not fit the cache go through it once, otherwise the image does.
    is_by_channel = filter_bytes > l2_bytes
    outer = [n, o, h, w] if is_by_channel else [n, h, w, o]
    sch.reorder(*outer, lane, row, column)
    sch.vectorize(column)
    if has_panel and is_by_channel:
        thread_loop, tile_loop = share_panels(sch, o, [n, h, w])
        loops = Loops(tile_loop, None, thread_loop)
    elif not is_by_channel and roles.trips(sch, [n, h, w]) >= PARALLEL_TASKS:
        thread_loop = sch.fuse(n, h, w)
        loops = Loops(o, thread_loop, None)
    else:
        thread_loop = sch.fuse(*outer)
        loops = Loops(thread_loop, None, None)
    sch.parallel(thread_loop)
    return loops


def share_panels(sch: s_tir.Schedule, o: Any, places: list[Any]) -> tuple[Any, Any]:
    """Share channel blocks among the threads, and places only as far as those are too few.

    Returns the threads' loop, in which a panel is widened, and the loop over the places that read it.
    """
    sch.reorder(o, *places)
    place = sch.fuse(*places)
    wanted = max(1, PARALLEL_TASKS // roles.extent(sch, o))
    parts = max(n for n in range(1, wanted + 1) if roles.extent(sch, place) % n == 0)
    part, place = sch.split(place, [parts, None])
    return sch.fuse(o, part), place


def schedule_panel(sch: s_tir.Schedule, panel: Any, loop: Any | None) -> None:
    """Widen a filter inside a loop, as far as it is read there, or all of it before."""
    if loop is None:
        convert(sch, panel)
    else:
        sch.compute_at(panel, loop, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(panel)[-1])


def convert(sch: s_tir.Schedule, block: Any) -> None:
    """Widen all of an array: to LLVM, one long loop over neighbours in each task."""
    whole = sch.fuse(*sch.get_loops(block))
    extent = roles.extent(sch, whole)
    if extent >= PARALLEL_OPERATIONS:
        tasks = max(n for n in range(1, PARALLEL_TASKS + 1) if extent % n == 0)
        task, _ = sch.split(whole, [tasks, None])
        sch.parallel(task)


def schedule_packing(sch: s_tir.Schedule, packed: Any, thread_loop: Any | None) -> None:
    """Pack what a thread needs inside its loop, where it stays in the cache; or all of it before."""
    if thread_loop is None:
        parallelize(sch, packed, roles.spatial_loops(sch, packed)[:-2])
    else:
        sch.compute_at(packed, thread_loop, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(packed)[-1])


def accumulate_in_registers(sch: s_tir.Schedule, block: Any, vector_lanes: int) -> None:
    """Unroll a tile inside the reduction, its last axis in vectors, so that the sums stay in registers."""
    extents, sums = roles.extents(sch, block), len(roles.sum_extents(sch, block))
    loops = sch.get_loops(block)
    tile = loops[-(len(extents) - roles.TILE_AXES) : -sums]
    reduction = loops[-sums:]
    sch.reorder(*reduction, *tile)
    *unrolled, last = tile
    if roles.extent(sch, last) > vector_lanes:
        vectors, last = sch.split(last, [None, vector_lanes])
        unrolled.append(vectors)
    sch.vectorize(last)
    for loop in unrolled:
        sch.unroll(loop)
    initial = sch.decompose_reduction(block, reduction[0])
    for loop in sch.get_loops(initial)[-len(unrolled) - 1 : -1]:
        sch.unroll(loop)


def schedule_others(sch: s_tir.Schedule, of_convolution: set[str]) -> None:
    """Everything that is no convolution: inline what is element-wise, thread the rest over its outer axes."""
    others = [block for block in roles.blocks(sch) if roles.name(sch, block) not in of_convolution]
    for block in others:
        if not roles.is_output(sch, block) and not roles.is_reduction(sch, block):
            sch.compute_inline(block)
    for block in roles.blocks(sch):
        if roles.name(sch, block) in of_convolution:
            continue
        spatial = roles.spatial_loops(sch, block)
        reduction = sch.get_loops(block)[len(spatial) :]
        if cuts := concatenated(sch, block):
            schedule_concatenation(sch, block, cuts)
            continue
        parallelize(sch, block, spatial[:-1])
        if roles.is_reduction(sch, block) and spatial and roles.extent(sch, spatial[-1]) > 1:
            # With the sum outside the innermost axis, LLVM can vectorize over neighbouring outputs.
            sch.reorder(*reduction, spatial[-1])
            if len(spatial) == BLOCKED_AXES:
                sch.vectorize(spatial[-1])
            sch.decompose_reduction(block, reduction[0])
        elif len(spatial) == BLOCKED_AXES:
            sch.vectorize(spatial[-1])


def concatenated(sch: s_tir.Schedule, block: Any) -> list[int]:
    """How many blocks of channels each part of a concatenation has, of maps in blocks; empty for others.

    What is done to the whole may be part of it: then it also reads what is broadcast.
    """
    written = _written_shape(sch, block)
    if len(written) != BLOCKED_AXES:
        return []
    shapes = [[int(extent) for extent in region.source.shape] for region in sch.get(block).reads]
    maps = [each for each in shapes if len(each) == BLOCKED_AXES and each[2:] == written[2:]]
    parts = [blocks for _, blocks, *_ in maps]
    # TVM asks for the last part first.
    return parts[::-1] if len(parts) > 1 and sum(parts) == written[1] else []


def schedule_concatenation(sch: s_tir.Schedule, block: Any, cuts: list[int]) -> None:
    """Thread a concatenation over rows, and cut its loop over channels where a part ends.

    Else each vector asks anew which of the parts it comes from: of DenseNet161's that took three quarters.
    """
    n, channel, row, column, lane = sch.get_loops(block)
    sch.reorder(n, row, channel, column, lane)
    sch.vectorize(lane)
    parallelize(sch, block, [n, row])
    sch.loop_partition(channel, cuts[:-1])


def parallelize(sch: s_tir.Schedule, block: Any, loops: list[Any], inner: int = 1) -> None:
    """Run the outer loops of a block on threads, if it has work for them.

    No more loops than make enough tasks: what is fused is taken apart again by divisions. inner: how many
    elements one run of the block computes.
    """
    operations = roles.trips(sch, sch.get_loops(block)) * inner
    if not loops or operations < PARALLEL_OPERATIONS:
        return
    count = next(
        (n for n in range(1, len(loops)) if roles.trips(sch, loops[:n]) >= PARALLEL_TASKS), len(loops)
    )
    sch.parallel(sch.fuse(*loops[:count]))


def _places(sch: s_tir.Schedule, block: Any) -> int:
    """How many tiles a channel block has."""
    n, _, y, x = roles.extents(sch, block)[: roles.TILE_AXES]
    return n * y * x


def _written_shape(sch: s_tir.Schedule, block: Any) -> list[int]:
    return [int(extent) for extent in sch.get(block).writes[0].source.shape]
