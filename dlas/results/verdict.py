"""Whether one configuration is faster than another, and by how much; `undecided` is an answer.

A verdict rests on processes, not on samples (see `statistics`). It is false when it says faster or slower
of two configurations whose medians, over all processes there could be, are the same, or differ by no more
than the device's own noise. `tests/results/test_verdict.py` holds that to 5% on rows that are made to
mislead: with samples that follow each other, drift, two modes, and processes that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite, log

import numpy as np

from dlas.results import statistics
from dlas.results.statistics import CONFIDENCE, MIN_DRAWN, Floats, Samples, Seed

FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"


@dataclass(frozen=True)
class Verdict:
    """What a is to b. ratio: of the medians, a to b, with its 95% interval; reason: why it is undecided."""

    word: str
    ratio: float
    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Side:
    """A configuration, drawn to be compared with others: what takes the time of a verdict.

    log_draws: (RESAMPLES,) logarithms of resampled medians; variance: of them, with the factor n / (n - 1)
    for what resampling n processes loses, infinite for a single one; log_median: of the processes themselves.
    """

    log_draws: Floats
    log_median: float
    variance: float
    processes: int


def draw(processes: Sequence[Samples], seed: Seed) -> Side:
    """Two sides of a verdict need two seeds. Samples are positive. Raises ValueError without any."""
    logs, count = np.log(statistics.draw_medians(processes, seed)), len(processes)
    variance = float(logs.var()) * count / (count - 1) if count > 1 else float("inf")
    return Side(logs, log(statistics.median_of_medians(processes)), variance, count)


def judge(a: Sequence[Samples], b: Sequence[Samples], noise_fraction: float = 0.0, seed: int = 0) -> Verdict:
    """Compare the processes of two configurations, each with its samples, all of them positive.

    noise_fraction: by how much the same artifact differs from itself on the device, as `invoke noise` finds
    it; a verdict needs an interval that lies beyond it. Raises ValueError without samples.
    """
    return judge_sides(draw(a, (seed, 0)), draw(b, (seed, 1)), noise_fraction)


def judge_sides(a: Side, b: Side, noise_fraction: float = 0.0) -> Verdict:
    """As `judge`."""
    low, ratio, high = _interval(a, b)
    fewest = min(a.processes, b.processes)
    if fewest < MIN_DRAWN:
        reason = f"{fewest} of {MIN_DRAWN} processes"
        return Verdict(UNDECIDED, ratio, low, high, reason)
    if high * (1 + noise_fraction) < 1:
        return Verdict(FASTER, ratio, low, high)
    if low > 1 + noise_fraction:
        return Verdict(SLOWER, ratio, low, high)
    is_noise = noise_fraction > 0 and not low <= 1 <= high
    # A ratio beyond the noise with an interval without 1 would be false in a sixth of the pairs where the
    # machine wanders (`tests/results/test_noise.py`).
    reason = f"within the device's noise of {noise_fraction:.1%}" if is_noise else "the interval holds 1"
    return Verdict(UNDECIDED, ratio, low, high, reason)


def ratio_of_medians(a: Sequence[Samples], b: Sequence[Samples], seed: int = 0) -> tuple[float, float, float]:
    """Low end, ratio and high end of a to b: medians of process medians, with a 95% interval.

    The wider of two on either side. The percentiles of a hierarchical bootstrap (Davison and Hinkley 1997,
    section 3.8) follow skewed and two-peaked times, but are too narrow where processes are few. Its
    standard error, with the factor n / (n - 1) for the variance that resampling n processes loses and
    Student's quantile (Welch's degrees of freedom), is right for few, but takes them for normal.
    """
    return _interval(draw(a, (seed, 0)), draw(b, (seed, 1)))


def _interval(a: Side, b: Side) -> tuple[float, float, float]:
    center, half, tail = a.log_median - b.log_median, _student(a, b), (1 - CONFIDENCE) / 2
    low, high = statistics.quantiles(a.log_draws - b.log_draws, (tail, 1 - tail))
    return exp(min(low, center - half)), exp(center), exp(max(high, center + half))


def _student(a: Side, b: Side) -> float:
    """Half of the interval by the standard error; infinite for a single process."""
    from scipy.special import stdtrit  # a tenth of a second, which most readers of this module need not wait

    total = a.variance + b.variance
    if total == 0 or not isfinite(total):
        return total
    freedom = total**2 / sum(side.variance**2 / (side.processes - 1) for side in (a, b))
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2) * total**0.5)
