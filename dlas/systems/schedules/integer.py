"""The hand schedule of 8-bit convolutions: as `scheduled`, but in NHWC, and with dot products for vectors."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from dlas.algorithms.integer import Dot
from dlas.systems.schedules import dots, roles, scheduled
from dlas.values import Compiler

VECTOR_BYTES = (64, 32, 16)


def sums_integers(func: tirx.PrimFunc) -> bool:
    """Whether a function has a convolution or linear layer of integers."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    found = roles.find(sch, *roles.CONVOLUTION_ROLES)
    return any(str(sch.get(block).writes[0].source.dtype) == "int32" for block in found)


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule a function with one integer convolution. Raises what TVM raises where a step does not fit."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    [block] = roles.find(sch, *roles.CONVOLUTION_ROLES)
    output = scheduled.fuse_epilogue(sch, block)
    inputs = roles.find(sch, "pad", "pack")
    scheduled.schedule_others(sch, {roles.name(sch, each) for each in (*inputs, block, output)})
    thread_loop, tile_loop = order_tiles(sch, block, compiler.l2_bytes)
    sch.set_scope(block, 0, "local")
    write_tile(sch, block, output, tile_loop)
    for packed in roles.find(sch, "pack"):
        if thread_loop is tile_loop:
            scheduled.parallelize(sch, packed, roles.spatial_loops(sch, packed)[:4])
        else:
            sch.compute_at(packed, thread_loop, preserve_unit_loops=True)
        vectorize_bytes(sch, packed)
    for padded in roles.find(sch, "pad"):
        scheduled.parallelize(sch, padded, roles.spatial_loops(sch, padded)[:-2])
        vectorize_bytes(sch, padded)
    if roles.role(sch, block) == "depthwise":
        sum_by_channel(sch, block)
    else:
        sum_dot_products(sch, block, dots.choose(compiler))
    return sch.mod["main"]


def order_tiles(sch: s_tir.Schedule, block: Any, l2_bytes: int) -> tuple[Any, Any]:
    """Order the loops over tiles as `scheduled` does; return the threads' loop, and that over tiles."""
    n, o, h, w = sch.get_loops(block)[: roles.TILE_AXES]
    _, _, *channels = roles.tile_extents(sch, block)
    filter_bytes = roles.extent(sch, o) * prod(channels) * prod(roles.sum_extents(sch, block))
    # Filters that do not fit the cache go through it once, otherwise the image does. Depthwise, both do.
    is_by_channel = filter_bytes > l2_bytes
    outer = [n, o, h, w] if is_by_channel else [n, h, w, o]
    sch.reorder(*outer)
    if not is_by_channel and roles.trips(sch, [n, h, w]) >= scheduled.PARALLEL_TASKS:
        thread_loop, tile_loop = sch.fuse(n, h, w), o
    else:
        thread_loop = tile_loop = sch.fuse(*outer)
    sch.parallel(thread_loop)
    return thread_loop, tile_loop


def write_tile(sch: s_tir.Schedule, block: Any, output: Any, tile_loop: Any) -> None:
    """Write a tile as soon as its sums are complete, from registers: a vector is lanes of one position."""
    *_, lanes = roles.tile_extents(sch, block)
    channels_in_all = roles.extents(sch, output)[-1]
    # A vector that reaches past the last channel would be written element by element.
    size = next((size for size in (lanes, lanes // 2) if channels_in_all % size == 0), lanes)
    sch.reverse_compute_at(output, tile_loop, preserve_unit_loops=True)
    *positions, channels = sch.get_loops(output)[-3:]
    vectors, lane = sch.split(channels, [None, size])
    for loop in (*positions, vectors):
        sch.unroll(loop)
    sch.vectorize(lane)


def sum_dot_products(sch: s_tir.Schedule, block: Any, dot: Dot) -> None:
    """Unroll a tile inside the reduction, its vectors as dot products, so that the sums stay in registers."""
    *tile, lane = _tile_loops(sch, block)
    *sums, tap = _sum_loops(sch, block)
    sch.reorder(*sums, *tile, lane, tap)
    lanes = _unrolled_start(sch, block, tile, sums[0])
    sch.vectorize(lanes)
    sch.tensorize(lane, dots.register(dot))


def sum_by_channel(sch: s_tir.Schedule, block: Any) -> None:
    """The same for a depthwise block: a vector is one product for each of its channels."""
    *tile, lane = _tile_loops(sch, block)
    sums = _sum_loops(sch, block)
    sch.reorder(*sums, *tile, lane)
    sch.vectorize(lane)
    _unrolled_start(sch, block, tile, sums[0])
    for loop in sums:
        sch.unroll(loop)


def _unrolled_start(sch: s_tir.Schedule, block: Any, tile: list[Any], first_sum: Any) -> Any:
    """Unroll the loops over a tile, and over the zeros that its sums start from; returns their last loop."""
    for loop in tile:
        sch.unroll(loop)
    *zeros, lanes = sch.get_loops(sch.decompose_reduction(block, first_sum))[-len(tile) - 1 :]
    for loop in zeros:
        sch.unroll(loop)
    return lanes


def _tile_loops(sch: s_tir.Schedule, block: Any) -> list[Any]:
    count, sums = len(roles.tile_extents(sch, block)), len(roles.sum_extents(sch, block))
    return list(sch.get_loops(block)[-count - sums : -sums])


def _sum_loops(sch: s_tir.Schedule, block: Any) -> list[Any]:
    return list(sch.get_loops(block)[-len(roles.sum_extents(sch, block)) :])


def vectorize_bytes(sch: s_tir.Schedule, block: Any) -> None:
    """Copy along the innermost axis in whole registers, as far as they divide it."""
    last = sch.get_loops(block)[-1]
    extent = roles.extent(sch, last)
    size = next((size for size in VECTOR_BYTES if extent % size == 0), 0)
    if size:
        sch.vectorize(sch.split(last, [None, size])[1])
    elif extent < min(VECTOR_BYTES):
        sch.unroll(last)
