"""Observations across devices: what of a speed-up is the network's, and what the hardware's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import exp, hypot, isfinite, log

from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED
from dlas.results.lines import Line
from dlas.results.observations.evidence import Evidence, Place, fewest_processes, ids_of, name_of
from dlas.results.observations.findings import RISK, Contest, Finding, some
from dlas.results.observations.races import EQUAL
from dlas.results.statistics import MIN_DRAWN
from dlas.results.tables import interval_text


@dataclass(frozen=True)
class Speedup:
    """Of a compressed network over the dense one, with the same algorithm and schedules, in one place."""

    place: Place
    dense: Line
    line: Line


def speedups_depend_on_hardware(evidence: Evidence) -> Finding:
    """By `some`: the speed-up that a compressed form has over dense differs between two devices, by over 5%.

    Places of one device, which differ in their runner or threads, are not compared; its CPU and its GPU are.
    A comparison says the contrary where both speed-ups are within 5% of each other.
    """
    contests = [
        _contest(evidence, one, other)
        for here, there in combinations(evidence.places, 2)
        if here.hardware != there.hardware
        for one, other in _pairs(here, there)
    ]
    hardware = {place.hardware for place in evidence.places}
    missing = (
        "no network was measured dense and compressed on two devices alike"
        if len(hardware) > 1
        else "all rows are of one device; run the sweep on another one (`--target`) and merge the results"
    )
    return some("What compression gains depends on the hardware.", contests, missing)


def _pairs(here: Place, there: Place) -> Iterator[tuple[Speedup, Speedup]]:
    for line in here.lines:
        other = there.twin(line)
        if line.first.compression == "dense" or other is None:
            continue
        if other.first.level_fraction != line.first.level_fraction:
            continue  # the elbow of other weights
        dense = [place.twin(line, compression="dense", format="dense") for place in (here, there)]
        if dense[0] and dense[1]:
            yield Speedup(here, dense[0], line), Speedup(there, dense[1], other)


def _contest(evidence: Evidence, one: Speedup, other: Speedup) -> Contest:
    ratio, low, high = _ratio(evidence, one, other, RISK)
    lines = (one.dense, one.line, other.dense, other.line)
    noise = (1 + evidence.noise(one.line)) * (1 + evidence.noise(other.line))

    def judge(holds_risk: float, fails_risk: float) -> str:
        _, low, high = _ratio(evidence, one, other, holds_risk)
        if low * EQUAL > noise or high * noise < EQUAL:
            return HOLDS
        _, low, high = _ratio(evidence, one, other, fails_risk)
        return FAILS if low > EQUAL * noise and high * noise * EQUAL < 1 else UNDECIDED

    told = " and ".join(
        f"{each.dense.median_ns / each.line.median_ns:.2f}x as fast as dense on {each.place.name}"
        for each in (one, other)
    )
    text = f"{name_of(one.line)} is {told}: {ratio:.2f} ({interval_text(low, high, 2)}) times as much"
    return Contest(judge, text, ids_of(lines), abs(log(ratio)), fewest_processes(lines) < MIN_DRAWN)


def _ratio(evidence: Evidence, one: Speedup, other: Speedup, risk: float) -> tuple[float, float, float]:
    """Of one speed-up to the other, with its interval.

    The two are independent, and the distance of each end is what Pythagoras makes of theirs (Zou and Donner
    2008, Statistics in Medicine 27, 1693-1702), on a logarithmic scale.
    """
    found = [evidence.verdict(each.dense, each.line).ratio for each in (one, other)]
    (low_a, high_a), (low_b, high_b) = (
        evidence.interval(each.dense, each.line, risk) for each in (one, other)
    )
    center = log(found[0] / found[1])
    if not isfinite(high_a) or not isfinite(high_b):
        return exp(center), 0.0, float("inf")
    below = hypot(log(found[0] / low_a), log(high_b / found[1]))
    above = hypot(log(high_a / found[0]), log(found[1] / low_b))
    return exp(center), exp(center - below), exp(center + above)
