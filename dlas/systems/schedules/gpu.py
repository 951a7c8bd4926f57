"""The hand schedule of GPUs: a block of threads has a tile of the output, each of them a part in registers.

The computes and their roles are those of the CPU. What is no convolution goes to dlight, TVM's own schedules
for GPUs.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight

from dlas.algorithms.blocks import FLOAT32_BYTES
from dlas.systems import codegen, tiles
from dlas.systems.schedules import roles, scheduled
from dlas.values import Compiler

ENTRIES = 8  # of a row of the filter, in one piece
VECTOR = 4  # of a filter's lanes are loaded at once
SHARED_BYTES = tiles.GPU_BYTES
CHUNKS = (32, 16, 8, 4, 2, 1)  # input channels that are in shared memory at once
SHARED = ("cuda",)  # compilers for GPUs whose shared memory is faster than their caches


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Schedule one function. Raises what TVM raises where a step does not apply."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    if roles.find(sch, "sparse"):
        return schedule_ell(sch, compiler)
    convolutions = roles.find(sch, "accumulate")
    if not convolutions:
        return by_dlight(func, compiler)
    [block] = convolutions
    output = scheduled.fuse_epilogue(sch, block)
    is_depthwise = roles.name(sch, block) == "depthwise"
    # A Mali has no memory that is faster for being shared, and a depthwise filter's taps are few.
    stages = compiler.kind in SHARED and not is_depthwise
    packed, padded = roles.find(sch, "pack"), roles.find(sch, "pad")
    staged = padded if stages and not packed else []
    # A squeezed map that scales a whole one: its multiplication is a kernel of its own.
    others = [
        each for each in roles.blocks(sch) if roles.is_output(sch, each) and not _same(sch, each, output)
    ]
    inline_all_but(sch, *packed, *staged, block, output, *others)
    threads = codegen.threads(compiler)
    for each in (*packed, *others):
        copy(sch, each, threads)
    thread = share(sch, block, output, threads)
    sch.set_scope(block, 0, "local")
    sch.compute_at(block, thread, preserve_unit_loops=True)
    accumulate(sch, block, staged, stages)
    return sch.mod["main"]


def schedule_ell(sch: s_tir.Schedule, compiler: Compiler) -> tirx.PrimFunc:
    """A kernel for each bucket of rows, one for what is packed, and one that puts the rows in order.

    Neighbouring threads have neighbouring outputs of a row: each reads the same entry of the filter, and
    neighbouring inputs.
    """
    sums, inputs = roles.find(sch, "sparse"), roles.find(sch, "pad", "pack")
    [output] = [block for block in roles.blocks(sch) if roles.is_output(sch, block)]
    inline_all_but(sch, *sums, *inputs, output)
    threads = codegen.threads(compiler)
    for block in sums:
        # The loops are those of what is stored: a sum that is given to threads loses the limit of its rows.
        stored = sch.cache_write(block, 0, "local")
        *rows, h, w = sch.get_loops(stored)
        places = sch.fuse(h, w)
        group, thread = sch.split(places, [None, min(roles.extent(sch, places), threads)])
        sch.bind(sch.fuse(*rows), "blockIdx.y")
        sch.bind(group, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        sch.compute_at(block, thread, preserve_unit_loops=True)
        entry = sch.get_loops(block)[-1]
        step, unrolled = sch.split(entry, [None, min(ENTRIES, roles.extent(sch, entry))])
        sch.unroll(unrolled)
        sch.decompose_reduction(block, step)
    for block in (*inputs, output):
        copy(sch, block, threads)
    return sch.mod["main"]


def inline_all_but(sch: s_tir.Schedule, *kept: Any) -> None:
    """Compute all other blocks where they are read."""
    names = {roles.name(sch, each) for each in kept}
    for block in roles.blocks(sch):
        if roles.name(sch, block) not in names:
            sch.compute_inline(block)


def share(sch: s_tir.Schedule, block: Any, output: Any, most_threads: int) -> Any:
    """Give a block of threads a tile, or small ones of neighbouring channels. Returns the threads' loop."""
    height, width, lanes = roles.tile_extents(sch, block)
    channels, rows = tiles.gpu_share(height, width, lanes, most_threads)
    n, o, h, w = sch.get_loops(output)
    o, lane = sch.split(o, [None, lanes])
    h, row = sch.split(h, [None, height])
    w, column = sch.split(w, [None, width])
    lane, channel = sch.split(lane, [None, channels])
    part, row = sch.split(row, [None, rows])
    in_tile = lanes // channels * (height // rows) * width
    taps = prod(roles.sum_extents(sch, block)[1:])
    fitting = SHARED_BYTES // 2 // (FLOAT32_BYTES * taps * lanes)
    most = max(1, min(most_threads // in_tile // 2, fitting))
    o, along = sch.split(o, [None, _near(roles.extent(sch, o), most)])
    sch.reorder(n, o, h, w, along, lane, part, column, channel, row)
    x, y = sch.fuse(part, column), sch.fuse(along, lane)
    for loop, axis in (
        (sch.fuse(n, o), "blockIdx.y"),
        (sch.fuse(h, w), "blockIdx.x"),
        (y, "threadIdx.y"),
        (x, "threadIdx.x"),
    ):
        sch.bind(loop, axis)
    for loop in (channel, row):
        sch.unroll(loop)
    return x


def accumulate(sch: s_tir.Schedule, block: Any, padded: list[Any], stages: bool) -> None:
    """Sum a thread's outputs in registers; its filter's lanes are loaded in vectors.

    stages: some input channels at a time, with their filter, are in memory that the block of threads shares.
    padded: the block that computes the input, for it to be computed there; without it, it is copied.
    """
    *_, height, width, lanes, ci, kh, kw = sch.get_loops(block)
    chunk, ci = sch.split(ci, [None, chunk_channels(sch, block) if stages else 1])
    sch.reorder(chunk, ci, kh, kw, height, width, lanes)
    for loop in (height, width, lanes):
        sch.unroll(loop)
    if stages:
        weights = sch.cache_read(block, 1, "shared")
        data = padded or [sch.cache_read(block, 0, "shared")]
        for each in (*data, weights):
            sch.set_scope(each, 0, "shared")
            sch.compute_at(each, chunk, preserve_unit_loops=True)
            fetch(sch, each, VECTOR if each is weights and _lanes(sch, block) % VECTOR == 0 else 1)
    if roles.extent(sch, lanes) % VECTOR == 0:
        weights = sch.cache_read(block, 1, "local")
        sch.compute_at(weights, kw, preserve_unit_loops=True)
        vectors, lane = sch.split(sch.get_loops(weights)[-1], [None, VECTOR])
        sch.unroll(vectors)
        sch.vectorize(lane)
    zeros = sch.decompose_reduction(block, chunk)
    for loop in sch.get_loops(zeros)[-3:]:
        sch.unroll(loop)


def chunk_channels(sch: s_tir.Schedule, block: Any) -> int:
    """How many input channels fit the shared memory, with their filter: a divisor of them all."""
    (_, _, down, across, *_), (ci, kh, kw) = roles.extents(sch, block), roles.sum_extents(sch, block)
    *_, of_thread, _, _, _ = sch.get_loops(block)
    lanes = _bound(sch, block, "threadIdx.y") * roles.extent(sch, of_thread)
    _, *shape = (int(extent) for extent in sch.get(block).reads[0].source.shape)
    is_packed = bool(roles.find(sch, "pack"))
    image = prod(shape[3:]) if is_packed else (shape[-2] // down + kh) * (shape[-1] // across + kw)
    of_channel = FLOAT32_BYTES * (lanes * kh * kw + image)
    return next(n for n in CHUNKS if ci % n == 0 and (n == 1 or n * of_channel <= SHARED_BYTES))


def fetch(sch: s_tir.Schedule, block: Any, vector: int) -> None:
    """Share the copying of an array among the threads of a block."""
    y, x = (_bound(sch, block, axis) for axis in ("threadIdx.y", "threadIdx.x"))
    own = sch.get_loops(block)[-len(roles.extents(sch, block)) :]
    _, y_, x_, lane = sch.split(sch.fuse(*own), [None, y, x, vector])
    sch.bind(y_, "threadIdx.y")
    sch.bind(x_, "threadIdx.x")
    sch.vectorize(lane)


def copy(sch: s_tir.Schedule, block: Any, threads: int) -> None:
    """Compute an element of an array in each thread, all of its sum."""
    spatial = len(roles.extents(sch, block)) - len(roles.sum_extents(sch, block))
    group, thread = sch.split(sch.fuse(*sch.get_loops(block)[:spatial]), [None, threads])
    sch.bind(group, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


def by_dlight(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """What TVM itself does: sums over threads where outputs are few, else an output for each thread."""
    return _apply(
        func, compiler, dlight.gpu.Reduction(), dlight.gpu.GeneralReduction(), dlight.gpu.Fallback()
    )


def minimal(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """The paper's untuned schedule: threads over the outputs, and no more.

    dlight's would put what follows a sum of a single term into that sum.
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    sums, inputs = roles.find(sch, *roles.CONVOLUTION_ROLES), roles.find(sch, "pad", "pack")
    if not sums:
        return _apply(func, compiler, dlight.gpu.Fallback())
    outputs = [each for each in roles.blocks(sch) if roles.is_output(sch, each)]
    inline_all_but(sch, *inputs, *sums, *outputs)
    for each in (*inputs, *sums, *outputs):
        copy(sch, each, codegen.threads(compiler))
    return sch.mod["main"]


def _apply(func: tirx.PrimFunc, compiler: Compiler, *rules: Any) -> tirx.PrimFunc:
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    with codegen.of(compiler):
        return dlight.ApplyDefaultSchedule(*rules)(mod)["main"]


def _same(sch: s_tir.Schedule, one: Any, other: Any) -> bool:
    return roles.name(sch, one) == roles.name(sch, other)


def _lanes(sch: s_tir.Schedule, block: Any) -> int:
    return roles.tile_extents(sch, block)[-1]


def _bound(sch: s_tir.Schedule, block: Any, axis: str) -> int:
    """The extent of the loop around a block that is bound to an axis of the threads."""
    loops = [sch.get(loop) for loop in sch.get_loops(block)]
    bound = [loop for loop in loops if loop.thread_binding is not None]
    [extent] = [int(loop.extent) for loop in bound if loop.thread_binding.thread_tag == axis]
    return extent


def _near(extent: int, most: int) -> int:
    """The largest power of two up to `most` that is no larger than needed."""
    count = 1
    while 2 * count <= most and count < extent:
        count *= 2
    return count


SCHEDULES = {"scheduled": schedule, "minimal": minimal}
