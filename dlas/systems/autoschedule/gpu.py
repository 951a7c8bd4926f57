"""The design space of sparse convolutions on GPUs, for CUDA and OpenCL, and the code of its candidates.

What MetaSchedule's own rules for GPUs draw is not valid: they stage what a sum reads in shared memory, and of
an input that is read at offsets from memory that is all of it. Multi-level tiling without that leaves the
threads of a block to chance, for each bucket of an ELL anew, so that with three of them one draw in hundreds
is valid. Here the threads are drawn first, and a tile is what one of them computes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.meta_schedule import mutator, postproc
from tvm.s_tir.meta_schedule.search_strategy import ReplayTrace
from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

from dlas.errors import BuildError, ScheduleError
from dlas.systems.autoschedule.context import Context, to_module
from dlas.systems.export import first_line
from dlas.systems.schedules import roles

MOST_THREADS = 512  # of CUDA's 1024, so that each has 128 registers
COPY_THREADS = (32, 64, 128, 256)
MOST_ROWS = 8  # of outputs of a thread
MOST_VTHREADS = 8  # what VerifyGPUCode lets through
MOST_ENTRIES = 16  # of a row of the filter, in one piece
UNROLLED_STEPS = (0, 16, 64, 256)
MANY = 16  # times as many outputs as threads go in step: then fewer threads than that are not even tried
DRAWS = 50  # for one valid candidate
BATCHES = 8  # at most, each of as many candidates as are wanted


def space(target: tvm.target.Target) -> ScheduleFn:
    """What a search may choose for a function with a sparse convolution.

    For each bucket: the threads of a block, which outputs one of them computes, and how many entries of a row
    it takes in one piece; for each other kernel its threads; for all, what is unrolled.
    """
    most, least = int(target.attrs["max_threads_per_block"]), int(target.attrs["thread_warp_size"])
    return ScheduleFn(
        partial(schedule, least=least, most=min(most, MOST_THREADS)),
        sch_rules=[],
        postprocs=[
            postproc.DisallowDynamicLoop(),
            postproc.RewriteParallelVectorizeUnroll(),
            postproc.RewriteReductionBlock(),
            postproc.VerifyGPUCode(),
        ],
        mutator_probs={
            mutator.MutateTileSize(): 0.85,
            mutator.MutateThreadBinding(): 0.05,
            mutator.MutateUnroll(): 0.1,
        },
    )


def schedule(sch: s_tir.Schedule, least: int, most: int) -> None:
    """Draw one variant: a kernel for each bucket, for what packs or pads its input, and for the output.

    least, most: how many threads a block has.
    """
    sums, inputs = roles.find(sch, "sparse"), roles.find(sch, "pad", "pack")
    (output,) = [block for block in roles.blocks(sch) if roles.is_output(sch, block)]
    kept = {roles.name(sch, block) for block in (*sums, *inputs, output)}
    for block in roles.blocks(sch):
        if roles.name(sch, block) not in kept:
            sch.compute_inline(block)
    # Of one bucket the rows are in the order of the channels: unless in tiles, it is what the output is.
    is_output = len(sums) == 1 and _shape(sch, sums[0]) == _shape(sch, output)
    for block in sums:
        tile(sch, block, least, most)
    if is_output:
        sch.reverse_compute_inline(output)
    for block in inputs if is_output else (*inputs, output):
        copy(sch, block, most)
    steps = sch.sample_categorical(list(UNROLLED_STEPS), _even(UNROLLED_STEPS))
    sch.annotate(sch.get_sblock("root"), "meta_schedule.unroll_explicit", steps)


def tile(sch: s_tir.Schedule, block: Any, least: int, most: int) -> None:
    """Sum a part of some image rows in each thread, in registers.

    Neighbouring threads have neighbouring outputs: what one of them has of a row lies as far apart as there
    are threads for it (vthread). So they read neighbouring inputs, and all the same entry of the filter.
    """
    *outer, h, w, k = sch.get_loops(block)
    outputs = roles.trips(sch, [*outer, h, w])
    h, row = sch.split(h, sch.sample_perfect_tile(h, 2, MOST_ROWS))
    places, count = sch.sample_perfect_tile(w, 2, MOST_VTHREADS)
    vthread, w = sch.split(w, [count, places])
    k, entry = sch.split(k, sch.sample_perfect_tile(k, 2, MOST_ENTRIES))
    sch.reorder(*outer, h, w, vthread, k, entry, row)
    # Only whole blocks: reverse_compute_at loses the condition that keeps those of a part within bounds.
    shared = sch.fuse(*outer, h, w)
    group, thread = sch.split(shared, sch.sample_perfect_tile(shared, 2, most))
    sch.reorder(group, vthread, thread)
    for loop, axis in ((group, "blockIdx.x"), (vthread, "vthread.x"), (thread, "threadIdx.x")):
        sch.bind(loop, axis)
    possible = max(count for count in range(1, most + 1) if outputs % count == 0)
    floor = min(least, possible) if outputs >= MANY * least else 1  # few outputs are cut in few ways
    sch.annotate(block, "meta_schedule.thread_extent_low_inclusive", floor)
    sch.annotate(block, "meta_schedule.thread_extent_high_inclusive", most)
    written = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(written, thread, preserve_unit_loops=True)


def copy(sch: s_tir.Schedule, block: Any, most: int) -> None:
    """Compute an element of an array in each thread."""
    counts = [count for count in COPY_THREADS if count <= most]
    loop = sch.fuse(*sch.get_loops(block))
    group, thread = sch.split(loop, [None, sch.sample_categorical(counts, _even(counts))])
    sch.bind(group, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


def candidates(func: tirx.PrimFunc, target: tvm.target.Target, count: int, seed: int) -> list[s_tir.Schedule]:
    """Up to so many different valid variants of a function, drawn at random; the same for the same seed.

    seed: at least 1. Raises ScheduleError where there is none, as for a function of no sparse convolution.
    """
    if not roles.find(s_tir.Schedule(to_module(func)), "sparse"):
        raise ScheduleError("the function has no block of role sparse", "give it one of dlas.algorithms.ell")
    found: dict[str, s_tir.Schedule] = {}
    try:
        strategy = ReplayTrace(max_fail_count=DRAWS)
        context = Context(func, target, space(target), strategy, seed)
        context.pre_tuning(max_trials=BATCHES * count, num_trials_per_iter=count)
        for _ in range(BATCHES):
            batch, known = context.generate_measure_candidates(), len(found)
            found |= {str(candidate.sch.trace): candidate.sch for candidate in batch}
            if len(found) >= count or len(found) == known:
                break
            context.notify_runner_results(batch, [])
    except Exception as error:  # TVM raises many kinds; each means that the space does not apply
        raise ScheduleError(f"the design space does not apply: {first_line(error)}") from error
    if not found:
        raise ScheduleError("the design space has no valid candidate", "choose another algorithm or format")
    return list(found.values())[:count]


def compile_source(mod: tvm.IRModule, target: tvm.target.Target) -> str:
    """The kernels of a scheduled module, as OpenCL C or CUDA C++. Raises BuildError.

    Indices have 32 bits: TVM cannot know that those it reads from memory fit, and would compute all in 64.
    """
    try:
        built = tvm.tirx.build(tirx.transform.ForceNarrowIndexToInt32()(mod), target)
        source = "".join(str(kernels.inspect_source()) for kernels in built.imports)
    except Exception as error:  # code generation raises many kinds, none of them ours
        raise BuildError(f"no code for {target.kind.name}: {first_line(error)}") from error
    if not source:
        raise BuildError(f"no code for {target.kind.name}: nothing is bound to threads", "schedule it first")
    return source


def _shape(sch: s_tir.Schedule, block: Any) -> list[int]:
    return [int(extent) for extent in sch.get(block).writes[0].source.shape]


def _even(choices: Any) -> list[float]:
    return [1 / len(choices)] * len(choices)
