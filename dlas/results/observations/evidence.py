"""What observations rest on: publishable lines by place, and what can be said of two of them at a risk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from dlas.results.entries import Entry
from dlas.results.floors import Floors
from dlas.results.lines import Line, grouped, judge
from dlas.results.observations.findings import RISK
from dlas.results.places import Section, sections_of
from dlas.results.statistics import CONFIDENCE, MIN_DRAWN
from dlas.results.tables import interval_text
from dlas.results.verdict import Verdict

# What names a line in its place.
AXES = ("dataset", "model", "compression", "precision", "format", "algorithm", "tuning")
FORM = AXES[:5]  # what a network is, before it is chosen how it is computed
# Of the ways to compute a network, so many of the fastest are compared; the others are further behind.
NEAR = 8


@dataclass(frozen=True, eq=False)
class Place:
    """The publishable lines of a section, one or more, with positive times."""

    section: Section
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        return self.section.short_title

    @property
    def hardware(self) -> tuple[str, str]:
        """Fingerprint of the device, and the GPU, empty where its CPU computes."""
        return self.section.first.device, next((row.gpu for row in self.section.rows if row.gpu), "")

    def twin(self, line: Line, **axes: str) -> Line | None:
        """The line here that is like this one but for these axes; None where it was not measured."""
        return self._by_axes.get(tuple(axes.get(axis, getattr(line.first, axis)) for axis in AXES))

    @cached_property
    def _by_axes(self) -> dict[tuple[str, ...], Line]:
        return {_values(line, AXES): line for line in self.lines}


class Evidence:
    """Lines to compare, and the verdicts that were already asked for."""

    def __init__(self, rows: Iterable[Entry], floors: Floors) -> None:
        """rows: as `entries.latest` gives them."""
        kept = [(section, tuple(filter(_counts, section.timed))) for section in sections_of(rows)]
        self.places = tuple(Place(section, lines) for section, lines in kept if lines)
        self._floors = floors
        self._verdicts: dict[tuple[Line, Line], Verdict] = {}

    def noise(self, line: Line) -> float:
        """The noise floor where it was measured, as a fraction of its time."""
        return self._floors.of(line.first)

    def verdict(self, a: Line, b: Line) -> Verdict:
        """Of a against b, two lines of one place."""
        if (a, b) not in self._verdicts:
            self._verdicts[a, b] = judge(a, b, self.noise(a))
        return self._verdicts[a, b]

    def interval(self, a: Line, b: Line, risk: float = RISK) -> tuple[float, float]:
        """Of the ratio of a's time to b's, which it misses with this risk; (0, inf) with too few processes.

        The 95% interval, wider by as much as Student's quantile grows: with the degrees of freedom of the
        side with fewer processes, the fewest that Welch's formula gives, and so the most that it can grow.
        """
        found, fewest = self.verdict(a, b), fewest_processes((a, b))
        if fewest < MIN_DRAWN:
            return 0.0, float("inf")
        wider = _widening(risk, fewest - 1)
        low, high = (found.ratio * (end / found.ratio) ** wider for end in (found.low, found.high))
        return low, high

    def is_below(self, a: Line, b: Line, bound: float, risk: float) -> bool:
        """Whether a takes less than `bound` of b's time, by more than the noise of the place."""
        return self.interval(a, b, risk)[1] * (1 + self.noise(a)) < bound

    def is_above(self, a: Line, b: Line, bound: float, risk: float) -> bool:
        return self.interval(a, b, risk)[0] > bound * (1 + self.noise(a))

    def contenders(self, lines: Sequence[Line], risk: float) -> list[Line]:
        """Those that may be the fastest; the one that is, is among them but for this risk.

        Subset selection (Gupta 1965, Technometrics 7, 225-245): the fastest is lost only if it is found
        slower than one of the others, each of which has its part of the risk.
        """
        best = min(lines, key=lambda line: line.median_ns)
        part = risk / max(len(lines) - 1, 1)
        return [line for line in lines if line is best or not self.is_above(line, best, 1.0, part)]


def forms(lines: Iterable[Line]) -> list[list[Line]]:
    """By network and compressed form: the ways in which each is computed, the fastest first."""
    groups = grouped(lines, lambda line: _values(line, FORM))
    return [sorted(group, key=lambda line: line.median_ns) for group in groups]


def fewest_processes(lines: Iterable[Line]) -> int:
    return min(len(line.rows) for line in lines)


def ids_of(lines: Iterable[Line]) -> tuple[str, ...]:
    return tuple(row_id for line in lines for row_id in line.ids)


def name_of(line: Line) -> str:
    """Its cell without dataset and target."""
    return f"{line.first.model}/{line.configuration}"


def ratio_text(found: Verdict) -> str:
    """As in `1.52 (1.48 .. 1.57)`."""
    return f"{found.ratio:.2f} ({interval_text(found.low, found.high, 2)})"


def _values(line: Line, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(getattr(line.first, axis) for axis in axes)


def _counts(line: Line) -> bool:
    return line.is_publishable and all(row.samples_ns.min() > 0 for row in line.rows)


@cache
def _widening(risk: float, freedom: int) -> float:
    from scipy.special import stdtrit  # a tenth of a second, which most readers of this module need not wait

    return float(stdtrit(freedom, 1 - risk / 2) / stdtrit(freedom, (1 + CONFIDENCE) / 2))
