"""The hand schedule: register tile, vector lanes, accumulators in registers, threads over tiles.

The three algorithms differ in what they read; their inner kernel is one, and so is its schedule.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from dlas.systems.schedules import roles
from dlas.values import Compiler

PARALLEL_TASKS = 32  # enough to share out evenly among the threads of a small device
PARALLEL_OPERATIONS = 16384  # less work than this costs less than waking a thread
TILE_AXES = 4  # the leading axes of an accumulating block: N, channel block, tile row, tile column


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule one function for a CPU. Raises what TVM raises where a step does not apply."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    convolutions = roles.find(sch, *roles.CONVOLUTION_ROLES)
    outputs = [fuse_epilogue(sch, block) for block in convolutions]
    inputs = roles.find(sch, "pad", "pack")
    schedule_others(sch, {roles.name(sch, block) for block in (*inputs, *convolutions, *outputs)})
    for block, output in zip(convolutions, outputs, strict=True):
        thread_loop, tile_loop = tile_output(sch, block, output, compiler.l2_bytes)
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, tile_loop, preserve_unit_loops=True)
        accumulate_in_registers(sch, block, compiler.vector_lanes)
        for packed in roles.find(sch, "pack"):
            schedule_packing(sch, packed, None if thread_loop is tile_loop else thread_loop)
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


def tile_output(sch: s_tir.Schedule, block: Any, output: Any, l2_bytes: int) -> tuple[Any, Any]:
    """Cut the NCHW output into the block's tiles; return the loop that threads share, and that over tiles.

    They are one where each thread gets single tiles. Else a thread gets a place in the image and computes
    the tiles of all channel blocks there.
    """
    extents = _extents(sch, block)
    height, width, *lanes = extents[TILE_AXES : len(extents) - len(_reduction_extents(sch, block))]
    n, o, h, w = sch.get_loops(output)
    o, lane = sch.split(o, [None, lanes[0] if lanes else 1])
    h, row = sch.split(h, [None, height])
    w, column = sch.split(w, [None, width])
    filter_bytes = 4 * extents[1] * prod(lanes) * prod(_reduction_extents(sch, block))
    # Filters that do not fit the cache go through it once, otherwise the image does. Depthwise, both do.
    is_by_channel = not lanes or filter_bytes > l2_bytes
    outer = [n, o, h, w] if is_by_channel else [n, h, w, o]
    sch.reorder(*outer, lane, row, column)
    sch.vectorize(column)
    if not is_by_channel and _product(sch, [n, h, w]) >= PARALLEL_TASKS:
        thread_loop, tile_loop = sch.fuse(n, h, w), o
    else:
        thread_loop = tile_loop = sch.fuse(*outer)
    sch.parallel(thread_loop)
    return thread_loop, tile_loop


def schedule_packing(sch: s_tir.Schedule, packed: Any, thread_loop: Any | None) -> None:
    """Pack what a thread needs inside its loop, where it stays in the cache; or all of it before."""
    if thread_loop is None:
        parallelize(sch, packed, roles.spatial_loops(sch, packed)[:-2])
    else:
        sch.compute_at(packed, thread_loop, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(packed)[-1])


def accumulate_in_registers(sch: s_tir.Schedule, block: Any, vector_lanes: int) -> None:
    """Unroll a tile inside the reduction, its last axis in vectors, so that the sums stay in registers."""
    extents, sums = _extents(sch, block), len(_reduction_extents(sch, block))
    loops = sch.get_loops(block)
    tile = loops[-(len(extents) - TILE_AXES) : -sums]
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
        parallelize(sch, block, spatial[:-1])
        if roles.is_reduction(sch, block) and spatial and roles.extent(sch, spatial[-1]) > 1:
            # With the sum outside the innermost axis, LLVM can vectorize over neighbouring outputs.
            sch.reorder(*reduction, spatial[-1])
            sch.decompose_reduction(block, reduction[0])


def parallelize(sch: s_tir.Schedule, block: Any, loops: list[Any]) -> None:
    """Run the outer loops of a block on threads, if it has work for them.

    No more loops than make enough tasks: what is fused is taken apart again by divisions.
    """
    operations = _product(sch, sch.get_loops(block))
    if not loops or operations < PARALLEL_OPERATIONS:
        return
    count = next((n for n in range(1, len(loops)) if _product(sch, loops[:n]) >= PARALLEL_TASKS), len(loops))
    sch.parallel(sch.fuse(*loops[:count]))


def _product(sch: s_tir.Schedule, loops: list[Any]) -> int:
    return prod(roles.extent(sch, loop) for loop in loops)


def _extents(sch: s_tir.Schedule, block: Any) -> list[int]:
    return [int(axis.dom.extent) for axis in sch.get(block).iter_vars]


def _reduction_extents(sch: s_tir.Schedule, block: Any) -> list[int]:
    axes = sch.get(block).iter_vars
    return [int(axis.dom.extent) for axis in axes if int(axis.iter_type) != roles.SPATIAL]


def _written_shape(sch: s_tir.Schedule, block: Any) -> list[int]:
    return [int(extent) for extent in sch.get(block).writes[0].source.shape]
