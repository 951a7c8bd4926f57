"""Sweeps: which cells to run. A cell that cannot be built or measured gets a reason, and stays."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from functools import partial

from dlas.errors import SweepError
from dlas.hardware import targets
from dlas.sweepfile import FORMATS, OF_DATASET, Point, Sweep, Values, define, load
from dlas.sweeptables import PAPER, Budget
from dlas.values import Cell, Target

__all__ = ["OF_DATASET", "RULES", "Planned", "Rule", "Sweep", "expand", "listing", "load", "select"]


@dataclass(frozen=True)
class Planned:
    """A cell of a sweep on its target. Both reasons are empty where nothing stands in the way.

    trains: whether the network is trained, and pruned, where it has no checkpoint yet. budget: how long its
    workloads are searched, where it is tuned.
    """

    cell: Cell
    target: Target
    unbuildable: str
    unmeasurable: str
    trains: bool
    budget: Budget = PAPER

    @property
    def reason(self) -> str:
        """Why the cell gets no times, empty when it gets them."""
        return self.unbuildable or self.unmeasurable


@dataclass(frozen=True)
class Rule:
    """What no sweep can ask for. reason may name fields of `cell` and `target`.

    forbids is `build`, or `measure` where only that is impossible.
    """

    name: str
    forbids: str
    applies: Callable[[Cell, Target], bool]
    reason: str


def _lacks_format(processor: str, cell: Cell, target: Target) -> bool:
    return target.processor == processor and cell.format not in FORMATS[processor]


RULES = (
    Rule(
        name="gpu_numbers",
        forbids="build",
        applies=lambda cell, target: target.processor != "cpu" and cell.precision.startswith("int8"),
        reason="{cell.precision} is not computed with {target.processor}",
    ),
    *(
        Rule(
            name=f"{processor}_formats",
            forbids="build",
            applies=partial(_lacks_format, processor),
            reason=f"{{cell.format}} is no format with {processor}; choose one of {', '.join(formats)}",
        )
        for processor, formats in FORMATS.items()
    ),
    Rule(
        name="gpu_search",
        forbids="build",
        applies=lambda cell, target: target.processor != "cpu" and cell.tuning == "tuned",
        reason="no schedules are searched with {target.processor}",
    ),
    Rule(
        name="sparse_numbers",
        forbids="build",
        applies=lambda cell, target: (
            cell.format != "dense"
            and cell.precision != "fp32"
            and (target.processor == "cpu" or cell.precision != "fp16")
        ),
        reason="{cell.format} is computed in fp32 only, not in {cell.precision}",
    ),
    Rule(
        name="tuned_numbers",
        forbids="build",
        applies=lambda cell, _: cell.tuning == "tuned" and cell.precision != "fp32",
        reason="only fp32 is tuned, not {cell.precision}",
    ),
    Rule(
        name="no_runner",
        forbids="measure",
        applies=lambda _, target: not target.board.runners,
        reason="this version does not reach {target.name} to measure on it: [board] runners is empty",
    ),
)


def expand(sweep: Sweep, chosen: Sequence[Target] = ()) -> tuple[Planned, ...]:
    """The cells of a sweep: the product of its axes without what it excludes, then what it includes.

    chosen replaces the sweep's targets; what includes another target then adds nothing. Raises
    SweepError when a target is chosen twice or no cell is left, and TargetError.
    """
    axes = dict(sweep.axes)
    if chosen:
        axes["target"] = tuple(target.name for target in chosen)
        if len(set(axes["target"])) < len(chosen):
            raise SweepError(f"a target is chosen twice: {', '.join(axes['target'])}", "name each once")
    cells = [cell for cell in _cells(sweep, axes) if not any(_matches(cell, glob) for glob in sweep.exclude)]
    for entry in sweep.include:
        cells += _cells(sweep, {**axes, **{axis: (value,) for axis, value in entry.items()}})
    if chosen:
        there = {target.name: target for target in chosen}
        cells = [cell for cell in cells if cell.target in there]
    else:
        there = {name: targets.load(name) for name in dict.fromkeys(cell.target for cell in cells)}
    if not cells:
        raise SweepError(f"sweep {sweep.name} has no cell: [[exclude]] takes all away", "exclude less")
    return tuple(_planned(sweep, cell, there[cell.target]) for cell in dict.fromkeys(map(_defined, cells)))


def select(planned: Sequence[Planned], only: str) -> tuple[Planned, ...]:
    """The cells whose id matches a glob, whose * goes over slashes too. Raises SweepError when none does."""
    selected = tuple(each for each in planned if fnmatchcase(each.cell.id, only))
    if not selected:
        close = ", ".join(_closest([each.cell.id for each in planned], only))
        raise SweepError(f"no cell matches {only!r}, close are {close}", "see all with --list")
    return selected


def listing(planned: Sequence[Planned]) -> str:
    """The cells' ids, one on each line."""
    return "\n".join(each.cell.id for each in planned)


def _cells(sweep: Sweep, axes: Mapping[str, Values]) -> Iterator[Cell]:
    for point in itertools.product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        training = sweep.training.get(values["dataset"])
        yield Cell(
            model=sweep.models[values.pop("model")],
            recipe=training.recipe if training else "",
            finetuning=training.finetuning if training else "",
            max_drop_fraction=sweep.max_drop_fraction,
            **values,
        )


def _defined(cell: Cell) -> Cell:
    return replace(cell, model=define(cell.model, cell.dataset))


def _matches(cell: Cell, glob: Point) -> bool:
    point = {**vars(cell), "model": cell.model.name}
    return all(fnmatchcase(point[axis], value) for axis, value in glob.items())


def _planned(sweep: Sweep, cell: Cell, target: Target) -> Planned:
    reasons: dict[str, list[str]] = {"build": [], "measure": []}
    for rule in RULES:
        if rule.applies(cell, target):
            reasons[rule.forbids].append(rule.reason.format(cell=cell, target=target))
    reasons["build"] += [reason for glob, reason in sweep.invalid if _matches(cell, glob)]
    training = sweep.training.get(cell.dataset)
    trains = training is not None and training.train
    unbuildable, unmeasurable = ("; ".join(reasons[what]) for what in ("build", "measure"))
    return Planned(cell, target, unbuildable, unmeasurable, trains, sweep.budget)


def _closest(ids: Sequence[str], only: str) -> list[str]:
    """The three ids whose parts are most like the words of a glob that matches none."""
    words = [word for word in re.split(r"[*?/\[\]]+", only) if word]

    def likeness(cell_id: str) -> float:
        parts = cell_id.split("/")
        return sum(max(SequenceMatcher(None, word, part).ratio() for part in parts) for word in words)

    return sorted(ids, key=likeness, reverse=True)[:3]
