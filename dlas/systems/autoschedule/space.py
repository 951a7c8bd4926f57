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
from dlas.algorithms.blocks import NCHW_AXES
from dlas.algorithms.blocks import tiles as tile_counts
from dlas.algorithms.convolution import Tile, ceil_div
from dlas.algorithms.sparse import SparseTile
from dlas.systems import kernels, sparse, tiles
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


def count(workload: Workload, choice: Choice) -> int:
    """How many variants the structure of a choice has, of those that a search proposes."""
    cuts = [_divisors(prod(decision)) for decision in choice.decisions]
    shared, least = _shared(workload, choice), _least_tasks(workload, choice)
    return sum(shared * prod(outer) >= least for outer in product(*cuts))


def has_tasks(workload: Workload, choice: Choice) -> bool:
    """Whether a variant has work for several threads, as far as its structure can have."""
    tasks = _shared(workload, choice) * prod(outer for outer, _ in choice.decisions)
    return tasks >= _least_tasks(workload, choice)


def _least_tasks(workload: Workload, choice: Choice) -> int:
    return min(dense.TASKS, _shared(workload, choice) * prod(map(prod, choice.decisions)))


def _shared(workload: Workload, choice: Choice) -> int:
    """How many tasks a variant has whatever was decided."""
    conv, sketch = workload.conv, dict(choice.sketch)
    if sketch["space"] == "depthwise":
        return conv.N * conv.CO // int(sketch["lanes"])
    if sketch["space"] == "sparse":
        return conv.N * prod(runs.tile_counts(conv, SparseTile(**tile_of(choice) or {})))
    return conv.N


def tile_of(choice: Choice) -> dict[str, Any] | None:
    """The extents of a choice's tile; None where the hand schedule's is taken."""
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
    nest = dense.Sketch(sketch["order"], sketch["staged"], sketch.get("parts", 1))
    dense.apply(sch, compiler, nest, given)


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
_NO_TILE = ("space", "order", "staged", "parts")


def _blocked(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    best = sorted(
        tiles.blocked_tiles(conv, compiler),
        key=lambda tile: tiles.estimate_blocked_cycles(conv, tile, compiler),
    )
    yield from _in_parts(workload, best[:TILES], compiler)
    yield from _nests(workload, best[:TILES], compiler, tiles.is_padded(conv))


def _dense(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    best = tiles.rank(conv, compiler)[:TILES]
    return _nests(workload, best, compiler, tiles.is_padded(conv) or workload.algorithm != "direct")


def _in_parts(workload: Workload, best: list[Tile], compiler: Compiler) -> Iterable[Choice]:
    """Each tile with its filter in parts, where that is large."""
    conv, is_image = workload.conv, len(kernels.input_shape(workload, compiler)) == NCHW_AXES
    for tile in best:
        down, across = tile_counts(conv, tile)
        block = 0 if is_image else compiler.vector_lanes
        count = dense.filter_parts((conv.CG, conv.KH, conv.KW), tile.lanes, block)
        if count > 1:
            cuts = dense.share(ceil_div(conv.CO, tile.lanes), across if down == 1 else down, 1, by_rows=False)
            yield _dense_choice(tile, dense.Sketch(parts=count), cuts)


def _nests(workload: Workload, best: list[Tile], compiler: Compiler, has_stages: bool) -> Iterable[Choice]:
    """Each tile in the first order and stage, then in the others: the first are the likeliest."""
    conv = workload.conv
    staged = dense.PLACES if has_stages else dense.PLACES[:1]
    for (order, place), tile in product(product(dense.ORDERS, staged), best):
        channels, (down, across) = ceil_div(conv.CO, tile.lanes), tile_counts(conv, tile)
        places = across if down == 1 else down
        wanted = dense.parts(conv.N * conv.CI * conv.H * conv.W, compiler)
        cuts = dense.share(channels, places, wanted, by_rows=place == "task" or order == "image")
        yield _dense_choice(tile, dense.Sketch(order, place), cuts)


def _dense_choice(tile: Tile, nest: dense.Sketch, cuts: dense.Decisions) -> Choice:
    parts = (("parts", nest.parts),) if nest.parts > 1 else ()
    how = (("order", nest.order), ("staged", nest.staged), *parts)
    return Choice((("space", "dense"), *vars(tile).items(), *how), tuple((cut[0], cut[1]) for cut in cuts))


def _blocked_depthwise(workload: Workload, compiler: Compiler) -> Iterable[Choice]:
    conv = workload.conv
    for tile in tiles.blocked_depthwise_tiles(conv, compiler)[:TILES]:
        cut = depthwise.share(conv.N * conv.CO // tile.lanes, tile_counts(conv, tile)[0])
        yield Choice((("space", "depthwise"), *vars(tile).items()), (cut,))


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


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
