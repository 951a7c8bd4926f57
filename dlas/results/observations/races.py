"""Comparisons of times that several observations make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from math import log

from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED
from dlas.results.lines import Line
from dlas.results.observations.evidence import (
    NEAR,
    Evidence,
    Place,
    fewest_processes,
    ids_of,
    name_of,
    ratio_text,
)
from dlas.results.observations.findings import Contest
from dlas.results.statistics import MIN_DRAWN

FASTER, NOT_FASTER = "faster", "not faster"
# A network that takes at least this part of another's time is not faster in any way that matters.
EQUAL = 0.95


def race(
    evidence: Evidence,
    place: Place,
    ours: Iterable[Line],
    theirs: Iterable[Line],
    claim: str,
    bound: float = 1.0,
    note: str = "",
) -> Contest:
    """The fastest of ours against the fastest of theirs: whether it takes less than `bound` of that time.

    claim: FASTER, or NOT_FASTER for more than `bound`. Which is the fastest of a side is not known but chosen
    by the same times: so the loser's side is compared as a whole, and the risk divided among the winner's.
    """
    a, b = (sorted(side, key=lambda line: line.median_ns) for side in (ours, theirs))
    found = evidence.verdict(a[0], b[0])
    of_b = f"of the time of {name_of(b[0])}"
    return Contest(
        partial(_race_word, evidence, a, b, claim, bound),
        f"{name_of(a[0])} takes {ratio_text(found)} {of_b} on {place.name}{note}",
        ids_of((*a[:NEAR], *b[:NEAR])),
        abs(log(found.ratio / bound)),
        fewest_processes((*a[:NEAR], *b[:NEAR])) < MIN_DRAWN,
    )


def _race_word(
    evidence: Evidence,
    a: Sequence[Line],
    b: Sequence[Line],
    claim: str,
    bound: float,
    holds_risk: float,
    fails_risk: float,
) -> str:
    below_risk, above_risk = (holds_risk, fails_risk) if claim == FASTER else (fails_risk, holds_risk)
    below, above = (HOLDS, FAILS) if claim == FASTER else (FAILS, HOLDS)
    if all(evidence.is_below(a[0], line, bound, below_risk / len(a)) for line in b[:NEAR]):
        return below
    if all(evidence.is_above(line, b[0], bound, above_risk / len(b)) for line in a[:NEAR]):
        return above
    return UNDECIDED
