"""What to try next: MetaSchedule's evolution within the structures of a space, the best of which go on.

Each structure is tried once, as it is guessed to be best. Then the budget is shared by successive halving
(Jamieson and Talwalkar, 2016): round by round, half as many structures get as many variants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any
from zlib import crc32

import numpy as np
from tvm import s_tir
from tvm.s_tir.meta_schedule.cost_model import XGBModel
from tvm.s_tir.meta_schedule.database import MemoryDatabase, TuningRecord
from tvm.s_tir.meta_schedule.mutator import MutateTileSize
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch, MeasureCandidate
from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

from dlas.systems.autoschedule import candidate, space
from dlas.systems.autoschedule.context import Context, to_module
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.systems.codegen import llvm_target
from dlas.values import Compiler

ROUND = 16  # trials after which half of the structures are left
MOST, FEWEST = 8, 2  # structures that are followed at first, and to the end
WARMUP_RECORDS = 8  # before so many, MetaSchedule's model guesses
# Small, as the spaces are: to lower a variant, for its features, takes a tenth of building it.
EVOLUTION = {"population_size": 16, "init_min_unmeasured": 8, "genetic_num_iters": 1}

History = Sequence[tuple[Choice, int | None]]


def propose(workload: Workload, compiler: Compiler, history: History, count: int) -> list[Choice]:
    """At most so many variants that are not in history, in the order in which to try them; none is the end.

    history: what was tried, in order, with its median in nanoseconds, None for what did not run. The first
    one is the hand schedule. What is returned depends on the arguments alone.
    """
    tried = dict(history)
    first = [space.HAND, *space.structures(workload, compiler)]
    proposed = [choice for choice in first if choice not in tried][:count]
    if len(tried) < len(first):
        return proposed
    left = max(FEWEST, MOST >> (len(tried) - len(first)) // ROUND)
    followed = _rank(workload, tried)
    while len(proposed) < count and followed:
        # Behind those that are left the others follow only when these have no new variant.
        share = -(-(count - len(proposed)) // max(1, min(left, len(followed))))
        guess = followed.pop(0)
        proposed += _evolve(workload, compiler, guess, {**tried, **dict.fromkeys(proposed)}, share)
        left -= 1
        if left <= 0 and proposed:
            break
    return proposed[:count]


def _rank(workload: Workload, tried: dict[Choice, int | None]) -> list[Choice]:
    """A choice in each structure that ran and has variants left, the fastest one first."""
    best: dict[Any, int] = {}
    sizes: dict[Any, int] = defaultdict(int)
    guesses: dict[Any, Choice] = {}
    for choice, median_ns in tried.items():
        if not choice.decisions:
            continue
        sizes[choice.sketch] += space.has_tasks(workload, choice)
        guesses.setdefault(choice.sketch, choice)
        if median_ns is not None:
            best[choice.sketch] = min(median_ns, best.get(choice.sketch, median_ns))
    ranked = sorted(best, key=lambda sketch: best[sketch])
    return [guesses[each] for each in ranked if sizes[each] < space.count(workload, guesses[each])]


def _evolve(
    workload: Workload, compiler: Compiler, guess: Choice, tried: dict[Choice, int | None], count: int
) -> list[Choice]:
    """So many new variants of the structure of a choice, from those that are known."""
    func = _function(workload, compiler, guess)
    known = [(choice, ns) for choice, ns in tried.items() if choice.sketch == guess.sketch]
    target = llvm_target(compiler)
    generator = ScheduleFn(
        partial(space.apply, compiler=compiler, choice=guess, is_sampled=True),
        sch_rules=[],
        postprocs=[],
        mutator_probs={MutateTileSize(): 1.0},
    )
    seed = 1 + crc32(f"{workload.id} {guess.sketch} {len(tried)}".encode()) % 10**6
    context = Context(func, target, generator, EvolutionarySearch(**EVOLUTION), seed)
    np.random.seed(seed)  # by which MetaSchedule's model guesses
    module, database = to_module(func), MemoryDatabase()
    entry = database.commit_workload(module)
    measured = []
    for choice, median_ns in known:
        if median_ns is None:
            continue
        sch = s_tir.Schedule(module)
        space.apply(sch, compiler, choice)
        seconds = [median_ns / 1e9]
        database.commit_tuning_record(TuningRecord(sch.trace, entry, seconds, target))
        measured.append((MeasureCandidate(sch, []), RunnerResult(seconds, None)))
    model = XGBModel(num_warmup_samples=WARMUP_RECORDS, num_tuning_cores=1)
    if measured:
        candidates, results = zip(*measured, strict=True)
        model.update(context, list(candidates), list(results))
    context.pre_tuning(count + len(known), count + len(known), None, database, model)
    batch = context.generate_measure_candidates() or []
    found = dict.fromkeys(Choice(guess.sketch, _decisions(each.sch)) for each in batch)
    return [choice for choice in found if choice not in tried and space.has_tasks(workload, choice)][:count]


@lru_cache(maxsize=64)
def _function(workload: Workload, compiler: Compiler, guess: Choice) -> Any:
    return candidate.function(workload, compiler, guess)


def _decisions(sch: s_tir.Schedule) -> tuple[tuple[int, ...], ...]:
    """What was sampled, in the order of the trace."""
    trace = sch.trace
    sampled = (trace.decisions[inst] for inst in trace.insts if inst in trace.decisions)
    return tuple(tuple(int(factor) for factor in decision) for decision in sampled)
