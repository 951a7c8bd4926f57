"""Whether one configuration is faster than another, and by how much; `undecided` is an answer.

A verdict rests on processes, not on samples (see `statistics`). It is false when it says faster or slower
of two configurations whose medians, over all processes there could be, are the same, or differ by no more
than the device's own noise. `tests/results/test_verdict.py` holds that to 5% on rows that are made to
mislead: with samples that follow each other, drift, two modes, and processes that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlas.results import statistics
from dlas.results.statistics import CONFIDENCE, MIN_DRAWN, Floats, Samples

FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"


@dataclass(frozen=True)
class Verdict:
    """What a is to b. ratio: of the medians, a to b, with its 95% interval; reason: why it is undecided."""

    word: str
    ratio: float
    low: float
    high: float
    reason: str = ""


def judge(a: Sequence[Samples], b: Sequence[Samples], noise_fraction: float = 0.0, seed: int = 0) -> Verdict:
    """Compare the processes of two configurations, each with its samples, all of them positive.

    noise_fraction: by how much the same artifact differs from itself on the device, as `invoke noise` finds
    it; a verdict needs an interval that lies beyond it. Raises ValueError without samples.
    """
    low, ratio, high = ratio_of_medians(a, b, seed)
    fewest = min(len(a), len(b))
    if fewest < MIN_DRAWN:
        reason = f"{fewest} of {MIN_DRAWN} processes"
        return Verdict(UNDECIDED, ratio, low, high, reason)
    if high * (1 + noise_fraction) < 1:
        return Verdict(FASTER, ratio, low, high)
    if low > 1 + noise_fraction:
        return Verdict(SLOWER, ratio, low, high)
    is_noise = noise_fraction > 0 and not low <= 1 <= high
    reason = f"within the device's noise of {noise_fraction:.1%}" if is_noise else "the interval holds 1"
    return Verdict(UNDECIDED, ratio, low, high, reason)


def ratio_of_medians(a: Sequence[Samples], b: Sequence[Samples], seed: int = 0) -> tuple[float, float, float]:
    """Low end, ratio and high end of a to b: medians of process medians, with a 95% interval.

    The wider of two on either side. The percentiles of a hierarchical bootstrap (Davison and Hinkley 1997,
    section 3.8) follow skewed and two-peaked times, but are too narrow where processes are few. Its
    standard error, with the factor n / (n - 1) for the variance that resampling n processes loses and
    Student's quantile (Welch's degrees of freedom), is right for few, but takes them for normal.
    """
    draws = [np.log(statistics.draw_medians(side, (seed, number))) for number, side in enumerate((a, b))]
    center = float(np.log(statistics.median_of_medians(a) / statistics.median_of_medians(b)))
    half = _student(draws, (len(a), len(b)))
    tail = (1 - CONFIDENCE) / 2
    low, high = statistics.quantiles(draws[0] - draws[1], (tail, 1 - tail))
    ends = np.exp([min(low, center - half), center, max(high, center + half)])
    return float(ends[0]), float(ends[1]), float(ends[2])


def _student(draws: Sequence[Floats], counts: Sequence[int]) -> float:
    """Half of the interval by the standard error; infinite for a single process."""
    from scipy.special import stdtrit  # a tenth of a second, which most readers of this module need not wait

    if min(counts) < 2:
        return float("inf")
    variances = [float(draw.var()) * n / (n - 1) for draw, n in zip(draws, counts, strict=True)]
    total = sum(variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, counts, strict=True))
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2) * total**0.5)
