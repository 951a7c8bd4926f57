"""Observations of convolution algorithms and schedules: which is best, and what changes that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from math import log

from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED
from dlas.results.lines import Line, grouped
from dlas.results.observations.evidence import (
    FORM,
    Evidence,
    Place,
    fewest_processes,
    forms,
    ids_of,
    ratio_text,
)
from dlas.results.observations.findings import Contest, Finding, every, some
from dlas.results.statistics import MIN_DRAWN

UNTUNED = "minimal"  # threads, and no more: what the paper calls untuned

Ranked = dict[str, Line]  # by algorithm, the fastest first


def best_algorithm_changes_when_tuned(evidence: Evidence) -> Finding:
    """By `some`: no algorithm that may be the fastest of a network untuned may be so when it is tuned.

    A comparison says the contrary where one algorithm is faster than all others in both.
    """
    return some(
        "The best algorithm changes when its schedule is tuned.",
        [
            _agreement(
                evidence, place, _form_name(next(iter(before.values()))), {UNTUNED: before, tuning: after}
            )
            for place, tuning, before, after in _tuned(evidence)
            if len(before) > 1
        ],
        f"no network was measured both untuned and tuned with several algorithms; {_HOW_TO_TUNE}",
    )


def no_algorithm_is_best_for_all(evidence: Evidence) -> Finding:
    """By `some`, over all that networks have in common: no algorithm may be the fastest of each network.

    A comparison says the contrary where one algorithm is faster than all others for each network.
    """
    contests = []
    for place in evidence.places:
        for lines in grouped(place.lines, _all_but_model):
            by_model = {group[0].first.model: _ranked(group) for group in forms(lines)}
            shared = set.intersection(*(set(ranked) for ranked in by_model.values()))
            if len(by_model) > 1 and len(shared) > 1:
                found = {model: _only(ranked, shared) for model, ranked in by_model.items()}
                contests.append(_agreement(evidence, place, "/".join(_all_but_model(lines[0])), found))
    return some(
        "No one algorithm is the best for all networks of a device.",
        contests,
        "no two networks were measured with the same algorithms, two or more, on one place; name several in "
        "model and in algorithm",
    )


def tuning_gains_more_than_algorithm(evidence: Evidence) -> Finding:
    """By `every`, over networks: even the slowest algorithm, tuned, is faster than the fastest untuned one.

    Tuning gains t = fastest untuned / fastest tuned, the algorithm a = slowest tuned / fastest tuned; and
    t > a just says that the slowest tuned one is faster than the fastest untuned one.
    """
    return every(
        "Tuning gains more than the choice of the algorithm.",
        [
            _worst_against_best(evidence, place, list(after.values()), list(before.values()))
            for place, _, before, after in _tuned(evidence)
            if len(before) > 1
        ],
        f"no network was measured both untuned and tuned with several algorithms; {_HOW_TO_TUNE}",
    )


_HOW_TO_TUNE = 'add "minimal" to tuning, beside "scheduled" or "tuned", and name several in algorithm'


def _tuned(evidence: Evidence) -> Iterator[tuple[Place, str, Ranked, Ranked]]:
    """Of each form and way to tune it: the algorithms that were measured in both, untuned and tuned."""
    for place in evidence.places:
        for form in forms(place.lines):
            by_tuning = {group[0].first.tuning: _ranked(group) for group in grouped(form, _tuning)}
            before = by_tuning.pop(UNTUNED, {})
            for tuning, after in by_tuning.items():
                shared = before.keys() & after.keys()
                if shared:
                    yield place, tuning, _only(before, shared), _only(after, shared)


def _form_name(line: Line) -> str:
    return "/".join(getattr(line.first, axis) for axis in FORM)


def _tuning(line: Line) -> str:
    return line.first.tuning


def _ranked(lines: Sequence[Line]) -> Ranked:
    return {line.first.algorithm: line for line in sorted(lines, key=lambda line: line.median_ns)}


def _only(ranked: Ranked, algorithms: set[str]) -> Ranked:
    return {algorithm: line for algorithm, line in ranked.items() if algorithm in algorithms}


def _all_but_model(line: Line) -> tuple[str, ...]:
    return (*(getattr(line.first, axis) for axis in FORM if axis != "model"), line.first.tuning)


def _agreement(evidence: Evidence, place: Place, subject: str, rankings: dict[str, Ranked]) -> Contest:
    """Whether rankings of the same algorithms, by name, have not all the same first one."""
    lines = [line for ranked in rankings.values() for line in ranked.values()]
    told = [
        f"{name}: {next(iter(ranked))} is the fastest, {_runner_up(evidence, ranked)}"
        for name, ranked in rankings.items()
    ]
    return Contest(
        partial(_differs, evidence, list(rankings.values())),
        f"{subject} on {place.name}: {'; '.join(told)}",
        ids_of(lines),
        min(_lead(ranked) for ranked in rankings.values()),
        fewest_processes(lines) < MIN_DRAWN,
    )


def _differs(evidence: Evidence, rankings: Sequence[Ranked], holds_risk: float, fails_risk: float) -> str:
    """To hold, each ranking has its part of the risk; to fail, one that is wrong is enough."""

    def contenders(risk: float) -> list[set[str]]:
        found = [evidence.contenders(list(ranked.values()), risk) for ranked in rankings]
        return [{line.first.algorithm for line in lines} for lines in found]

    if not set.intersection(*contenders(holds_risk / len(rankings))):
        return HOLDS
    return FAILS if len(set.union(*contenders(fails_risk))) == 1 else UNDECIDED


def _runner_up(evidence: Evidence, ranked: Ranked) -> str:
    """How far behind the second is."""
    first, second, *_ = ranked.items()
    return f"{second[0]} takes {ratio_text(evidence.verdict(second[1], first[1]))} of its time"


def _lead(ranked: Ranked) -> float:
    """Of the first before the second, on a logarithmic scale."""
    first, second, *_ = ranked.values()
    return log(second.median_ns / first.median_ns)


def _worst_against_best(
    evidence: Evidence, place: Place, tuned: Sequence[Line], untuned: Sequence[Line]
) -> Contest:
    """Whether each of the tuned lines is faster than each of the untuned. Both are ranked."""
    slowest, fastest = tuned[-1], untuned[0]
    found = evidence.verdict(slowest, fastest)
    pairs = list(product(tuned, untuned))

    def judge(holds_risk: float, fails_risk: float) -> str:
        if all(evidence.is_below(a, b, 1.0, holds_risk) for a, b in pairs):
            return HOLDS
        if any(evidence.is_above(a, b, 1.0, fails_risk / len(pairs)) for a, b in pairs):
            return FAILS
        return UNDECIDED

    row = slowest.first
    text = (
        f"{_form_name(slowest)} on {place.name}: {row.algorithm}, the slowest under {row.tuning}, takes "
        f"{ratio_text(found)} of the time of {fastest.first.algorithm}, the fastest under {UNTUNED}"
    )
    is_few = fewest_processes((*tuned, *untuned)) < MIN_DRAWN
    return Contest(judge, text, ids_of((*tuned, *untuned)), abs(log(found.ratio)), is_few)
