"""Lines of a report: one configuration in one place, over all its processes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dlas.results import statistics, verdict
from dlas.results.entries import Entry, place_of
from dlas.results.statistics import Summary
from dlas.results.tables import NONE, count
from dlas.results.verdict import Verdict
from dlas.values import REPEATS

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Line:
    """One cell in one place: the measured rows of its replicates, and what they say together.

    rows: one or more, all of them timed, as `entries.latest` gives them.
    """

    rows: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        """One of its rows, for all that is the same in each."""
        return self.rows[0]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The rows that this line rests on."""
        return tuple(row.id for row in self.rows)

    @property
    def processes(self) -> list[statistics.Samples]:
        """The samples of each process, in nanoseconds."""
        return [row.samples_ns for row in self.rows]

    @cached_property
    def summary(self) -> Summary:
        return statistics.summarize(self.processes)

    @cached_property
    def median_ns(self) -> float:
        """As in `summary`, without its interval, which takes a hundred times as long."""
        return median(row.median_ns for row in self.rows)

    @property
    def contest(self) -> tuple[str, str]:
        """Lines of one section with the same contest are compared with each other."""
        return self.first.dataset, self.first.model

    @property
    def is_publishable(self) -> bool:
        return all(row.publishable for row in self.rows)

    @property
    def runs(self) -> str:
        """Processes x samples of each, as in 3x150."""
        counts = sorted({len(row.samples_ns) for row in self.rows})
        return f"{len(self.rows)}x{'/'.join(map(str, counts))}"

    @property
    def max_error(self) -> float | None:
        """The largest error over scale of the rows; a NaN among them stays visible."""
        errors = [row.max_error_over_scale for row in self.rows if row.max_error_over_scale is not None]
        return max(errors, key=lambda error: (error != error, error), default=None)

    @cached_property
    def judged(self) -> Entry | None:
        """A row with the accuracy of the artifact, None where it was not taken."""
        return next((row for row in self.rows if row.top1_fraction is not None and row.top1_n), None)

    @cached_property
    def correct(self) -> NDArray[np.bool_] | None:
        """As of `Entry`."""
        return self.judged.correct if self.judged else None

    @property
    def top1_fraction(self) -> float | None:
        return self.judged.top1_fraction if self.judged else None

    @property
    def is_reference(self) -> bool:
        """Whether it is a network as it was trained, whose accuracy others are measured by."""
        row = self.first
        return (row.compression, row.precision) == ("dense", "fp32") and self.judged is not None

    @property
    def accuracy(self) -> str:
        """Of the artifact, with its 95% interval: how many images there were is part of what it says."""
        row = self.judged
        if row is None or row.top1_fraction is None or not row.top1_n:
            return NONE
        low, high = statistics.proportion_interval(row.top1_fraction, row.top1_n)
        top5 = "" if row.top5_fraction is None else f", top-5 {row.top5_fraction:.1%}"
        return f"{row.top1_fraction:.1%} ({low:.1%} .. {high:.1%}) of {row.top1_n}{top5}"

    @property
    def name(self) -> str:
        """The cell's id, and the level that an elbow was."""
        row = self.first
        levels = sorted({each.level_fraction for each in self.rows if each.level_fraction is not None})
        at = "/".join(f"{level:.0%}" for level in levels)
        return f"{row.cell} (at {at})" if "@elbow" in row.compression and at else row.cell

    @property
    def configuration(self) -> str:
        """Its cell without dataset, model and target: what can be chosen for a network on a device."""
        return "/".join(self.name.split("/")[2:-1]) + self.name.partition(self.first.target)[2]

    @property
    def status(self) -> str:
        fewest = min(len(row.samples_ns) for row in self.rows)
        quick = f" ({fewest} of {REPEATS})" if fewest < REPEATS else ""
        marks = ["measured" if self.is_publishable else f"not publishable{quick}"]
        row = self.first
        if row.trained is False:
            marks.append("untrained")
        elif row.level_fraction and not row.finetuning:
            marks.append("not fine-tuned")
        if row.trained and row.calibration.endswith("noise"):
            marks.append("calibrated on noise")
        if row.ops_sparse is not None and row.format not in ("dense", "blocked"):
            marks.append(f"{row.ops_sparse} of {row.ops_total} sparse")
        if row.tuning == "tuned":
            share = row.tuned_fraction or 0.0
            marks.append(f"{share:.0%} tuned in {count(row.tuning_trials, 'trial')}")
        if row.stand_in:
            marks.append("stand-in base")
        if row.fallbacks:
            marks.append(count(len(row.fallbacks), "fallback"))
        return ", ".join(marks)


def judge(a: Line, b: Line, noise_fraction: float = 0.0) -> Verdict:
    """What a is to b, as `verdict.judge` of their processes."""
    return verdict.judge_sides(_drawn(a, 0), _drawn(b, 1), noise_fraction)


@lru_cache(maxsize=512)  # one line is compared with many others
def _drawn(line: Line, side: int) -> verdict.Side:
    return verdict.draw(line.processes, (0, side))


def lines_of(rows: Iterable[Entry]) -> list[Line]:
    """The timed ones of these rows, as `entries.latest` gives them, a line for each cell in each place."""
    return [Line(tuple(group)) for group in grouped(filter(lambda row: row.is_timed, rows), place_of)]


def grouped(items: Iterable[T], key: Callable[[T], K]) -> list[list[T]]:
    """The items with equal keys, in the order of the keys.

    >>> grouped(["b1", "a1", "b2"], key=lambda item: item[0])
    [['a1'], ['b1', 'b2']]
    """
    groups = by_key(items, key)
    return [groups[found] for found in sorted(groups)]  # type: ignore[type-var]


def by_key(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The items with equal keys, under them, in their own order."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
