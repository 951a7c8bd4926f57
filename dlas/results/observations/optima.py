"""Observations of what is best: whether the fastest configuration is also the most accurate one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from dlas.results import accuracy
from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED, Bools
from dlas.results.entries import Entry
from dlas.results.lines import Line, grouped
from dlas.results.observations.evidence import (
    Evidence,
    Place,
    fewest_processes,
    ids_of,
    name_of,
    ratio_text,
)
from dlas.results.observations.findings import RISK, Contest, Finding, some
from dlas.results.statistics import MIN_DRAWN
from dlas.results.tables import interval_text

DROP_FRACTION = 0.01  # of top-1 accuracy: what is as accurate as the best loses less


def fastest_is_not_most_accurate(evidence: Evidence) -> Finding:
    """By `some`: each line that may be the fastest is less accurate than another one.

    Less accurate by McNemar's exact test on the images that only one of them gets right. Asked of each
    network, and of all networks of a dataset. A comparison says the contrary where each line that may be the
    fastest loses at most a point against the most accurate one, and is not less accurate by that test.
    """
    contests = []
    for place in evidence.places:
        for of_dataset in grouped(place.lines, lambda line: line.first.dataset):
            networks = grouped(of_dataset, lambda line: line.contest)
            for lines in [*networks, *([of_dataset] if len(networks) > 1 else [])]:
                optima = _optima(evidence, lines)
                if optima:
                    contests.append(optima.contest(place))
    return some(
        "The fastest configuration is not always the most accurate one.",
        contests,
        "no place has two lines whose answers differ, with what each got wrong; measure with accuracy "
        "(`invoke run --images`, of networks that are trained)",
    )


@dataclass(frozen=True)
class _Optima:
    """Lines, the most accurate one of them, and in how many ways the images were answered."""

    evidence: Evidence
    lines: Sequence[Line]
    accurate: Line
    answers: int

    def contest(self, place: Place) -> Contest:
        fastest = min(self.lines, key=lambda line: line.median_ns)
        a, b = _correct(fastest, self.accurate), _correct(self.accurate, self.accurate)
        by = accuracy.difference(a, b) if a is not None and b is not None else None
        text = f"of {len(self.lines)} lines on {place.name}, {name_of(fastest)} is the fastest"
        if fastest is not self.accurate:
            ratio = ratio_text(self.evidence.verdict(fastest, self.accurate))
            text += f", in {ratio} of the time of {name_of(self.accurate)}, the most accurate"
        if by:
            interval = interval_text(100 * by.low, 100 * by.high, 1)
            text += f": {100 * by.fraction:+.1f} points ({interval}) of top-1"
        near = self.evidence.contenders(self.lines, RISK)
        is_few = fewest_processes(near) < MIN_DRAWN
        ids = ids_of(dict.fromkeys((fastest, self.accurate, *near)))
        return Contest(self._word, text, ids, abs(by.fraction) if by else 0.0, is_few)

    def _word(self, holds_risk: float, fails_risk: float) -> str:
        """Half of a risk is for the times, the other half for the accuracy."""
        part = holds_risk / 2 / (self.answers - 1)
        fast = self.evidence.contenders(self.lines, holds_risk / 2)
        if all(self._is_worse(line, part) for line in fast):
            return HOLDS
        fast = self.evidence.contenders(self.lines, fails_risk / 2)
        return FAILS if all(self._is_as_good(line) for line in fast) else UNDECIDED

    def _is_worse(self, line: Line, risk: float) -> bool:
        a, b = _correct(line, self.accurate), _correct(self.accurate, self.accurate)
        if a is None or b is None:
            return False
        gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
        return gained < lost and mcnemar(gained, lost) <= risk

    def _is_as_good(self, line: Line) -> bool:
        a, b = _correct(line, self.accurate), _correct(self.accurate, self.accurate)
        if a is None or b is None:
            return False
        return accuracy.judge(a, b, DROP_FRACTION).word == HOLDS and not self._is_worse(line, RISK)


def mcnemar(gained: int, lost: int) -> float:
    """How probable so large a difference is between two that are equally often right alone; two-sided.

    McNemar 1947, Psychometrika 12, 153-157.

    >>> mcnemar(0, 8), mcnemar(3, 3)
    (0.0078125, 1.0)
    """
    n = gained + lost
    tail = sum(comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << n))


def _optima(evidence: Evidence, lines: Sequence[Line]) -> _Optima | None:
    """None where no answers differ."""
    known = [line for line in lines if line.judged and line.judged.correct is not None]
    accurate = max(known, key=lambda line: (line.top1_fraction or 0.0, -line.median_ns), default=None)
    if accurate is None:
        return None
    corrects = [_correct(line, accurate) for line in known]
    answers = len({correct.tobytes() for correct in corrects if correct is not None})
    return _Optima(evidence, lines, accurate, answers) if answers > 1 else None


def _correct(line: Line, other: Line) -> Bools | None:
    """Which images of the other's it got right; None where that is not known, or others were asked."""
    row = line.judged
    if row is None or other.judged is None or _asked(row) != _asked(other.judged):
        return None
    return row.correct


def _asked(row: Entry) -> tuple[str, int | None]:
    return row.dataset_sha256, row.top1_n
