"""The design spaces: the structures that a convolution can have, and how its function is scheduled in each.

A structure, or sketch as Ansor calls it (Zheng et al., 2020), says what cannot be sampled within one
function: the tile, which is part of the compute, and how loops nest. What is left are extents of loops, which
MetaSchedule samples. The hand schedule is a structure of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from dlas.algorithms import runs
from dlas.algorithms.blocks import tiles as tile_counts
from dlas.algorithms.convolution import Tile, ceil_div
from dlas.algorithms.sparse import SparseTile
from dlas.systems import sparse, tiles
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.systems.schedules import dense, depthwise, roles
from dlas.systems.schedules import sparse as sparse_schedule
from dlas.values import Compiler

HAND = Choice((("space", "hand"),))
TILES = 10  # of each workload: those that are estimated to be fastest
_MARK = "choice"


def structures(workload: Workload, compiler: Compiler) -> list[Choice]:
    """A first guess in each structure of a space but the hand schedule, the likeliest ones first."""
    conv = workload.conv
    if workload.format == "blocked":
        found = _blocked_depthwise if conv.depthwise else _blocked
    elif conv.depthwise:
        found = _runs
    else:
        found = _dense if workload.format == "dense" else _sparse
    return list(dict.fromkeys(found(workload, compiler)))


def count(choice: Choice) -> int:
    """How many variants the structure of a choice has."""
    return prod(_divisors(prod(decision)) for decision in choice.decisions)


def has_tasks(workload: Workload, choice: Choice) -> bool:
    """Whether a variant has work for several threads, as far as its structure can have."""
    conv, sketch = workload.conv, dict(choice.sketch)
    shared = conv.N
    if sketch["space"] == "depthwise":
        shared *= conv.CO // int(sketch["lanes"])
    elif sketch["space"] == "sparse":
        shared *= prod(runs.tile_counts(conv, SparseTile(**tile_of(choice) or {})))
    tasks = shared * prod(outer for outer, _ in choice.decisions)
    return tasks >= min(dense.TASKS, shared * prod(map(prod, choice.decisions)))


def tile_of(choice: Choice) -> dict[str, Any] | None:
    """What `kernels.make` is given of a choice."""
    return None if choice == HAND else {name: value for name, value in choice.sketch if name not in _NO_TILE}


def mark(function: tirx.PrimFunc, choice: Choice) -> tirx.PrimFunc:
    """The function, whose convolution says how it is to be scheduled, also once it is fused."""
    if choice == HAND:
        return function
    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    [block] = roles.find(sch, *roles.CONVOLUTION_ROLES)
    sch.annotate(block, _MARK, json.dumps(choice.to_json()))
    return sch.mod["main"]


def choice_of(sch: s_tir.Schedule) -> Choice | None:
    """What `mark` has said of the function `main`."""
    for block in roles.find(sch, *roles.CONVOLUTION_ROLES):
        text = sch.get(block).annotations.get(_MARK)
        if text is not None:
            return Choice.from_json(json.loads(str(text)))
    return None


def apply(sch: s_tir.Schedule, compiler: Compiler, choice: Choice, is_sampled: bool = False) -> None:
    """Schedule the function `main` as chosen; sampled, with decisions of MetaSchedule's own.

    Raises what TVM raises where a step does not fit.
    """
    sketch = dict(choice.sketch)
    _APPLY[str(sketch["space"])](sch, compiler, sketch, () if is_sampled else choice.decisions)


def _apply_dense(sch: s_tir.Schedule, compiler: Compiler, sketch: Mapping[str, Any], given: Any) -> None:
    dense.apply(sch, compiler, dense.Sketch(sketch["order"], sketch["staged"]), given)


def _apply_depthwise(sch: s_tir.Schedule, compiler: Compiler, _: Mapping[str, Any], given: Any) -> None:
    depthwise.apply_blocked(sch, compiler, given)


def _apply_runs(sch: s_tir.Schedule, compiler: Compiler, _: Mapping[str, Any], given: Any) -> None:
    depthwise.apply(sch, compiler)


def _apply_sparse(sch: s_tir.Schedule, compiler: Compiler, _: Mapping[str, Any], given: Any) -> None:
    sparse_schedule.apply(sch, compiler, given)


_APPLY: Mapping[str, Callable[[s_tir.Schedule, Compiler, Mapping[str, Any], Any], None]] = {
    "dense": _apply_dense,
    "depthwise": _apply_depthwise,
    "runs": _apply_runs,
    "sparse": _apply_sparse,
}
_NO_TILE = ("space", "order", "staged")


def _blocked(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    best = sorted(
        tiles.blocked_tiles(conv, compiler),
        key=lambda tile: tiles.estimate_blocked_cycles(conv, tile, compiler),
    )
    return _nests(workload, best[:TILES], compiler, tiles.is_padded(conv))


def _dense(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    best = tiles.rank(conv, compiler)[:TILES]
    return _nests(workload, best, compiler, tiles.is_padded(conv) or workload.algorithm != "direct")


def _nests(workload: Workload, best: list[Tile], compiler: Compiler, has_stages: bool) -> Iterable[Choice]:
    """Each tile in the first order and stage, then in the others: the first are the likeliest."""
    conv = workload.conv
    staged = dense.PLACES if has_stages else dense.PLACES[:1]
    for (order, place), tile in product(product(dense.ORDERS, staged), best):
        channels, (down, across) = ceil_div(conv.CO, tile.lanes), tile_counts(conv, tile)
        places = across if down == 1 else down
        wanted = dense.parts(conv.N * conv.CI * conv.H * conv.W, compiler)
        cuts = dense.share(channels, places, wanted, by_rows=place == "task" or order == "image")
        decisions = tuple((cut[0], cut[1]) for cut in cuts)
        yield Choice(
            (("space", "dense"), *vars(tile).items(), ("order", order), ("staged", place)), decisions
        )


def _blocked_depthwise(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    for tile in tiles.blocked_depthwise_tiles(conv, compiler)[:TILES]:
        rows = tile_counts(conv, tile)[0]
        yield Choice((("space", "depthwise"), *vars(tile).items()), ((1, rows),))


def _runs(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    for tile in tiles.rank_depthwise(workload.conv, compiler)[:TILES]:
        yield Choice((("space", "runs"), *vars(tile).items()))


def _sparse(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    weights = conv.CO * conv.CG * conv.KH * conv.KW
    nonzeros = weights * (100 - workload.zero_percent) // 100
    is_packed = workload.format == "csr_packed"
    for tile in sparse.rank_tiles(conv, compiler, workload.algorithm, nonzeros, is_packed)[: 2 * TILES]:
        places = conv.N * prod(runs.tile_counts(conv, tile))
        parts = sparse_schedule.channel_parts(conv.CO, places)
        yield Choice((("space", "sparse"), *vars(tile).items()), ((parts, conv.CO // parts),))


def _divisors(number: int) -> int:
    return sum(number % n == 0 for n in range(1, number + 1))
