"""What the samples say, computed on reading. Times are nanoseconds; randomness is seeded.

150 samples of one process are not independent of each other: they share its memory layout, its
core's temperature and whatever else ran then. One process is therefore one observation, and an
interval from a single process covers only the noise inside that process, not what the next
process will measure. Claims need several processes; `MIN_DRAWN` of them give a 95% interval that
deserves the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
# The widest interval for a median is from the smallest to the largest value; with n of them it misses the
# true median with a probability of 2 * 0.5**n, which is below about 5% only from here on.
MIN_DRAWN = 5

Floats = NDArray[np.float64]
# Samples of one process, in the order in which they were taken.
Samples = Sequence[float] | NDArray[Any]
Seed = int | tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """One configuration, over all its processes. The interval is that of the median."""

    median_ns: float
    iqr_ns: float
    low_ns: float
    high_ns: float
    samples: int
    processes: int

    @property
    def covers_processes(self) -> bool:
        """Whether the interval also covers the differences between processes."""
        return self.processes >= MIN_DRAWN


def summarize(processes: Sequence[Samples], seed: Seed = 0) -> Summary:
    """Median, interquartile range and 95% interval of the samples of one or more processes.

    Each process has one vote: the median is that of the medians of the processes. The
    interquartile range is that of all samples together. Raises ValueError without any sample.
    """
    arrays = _sorted(processes)
    low, high = _interval(arrays, seed)
    lower, upper = quantiles(np.concatenate(arrays), (0.25, 0.75))
    return Summary(
        median_ns=_vote(arrays),
        iqr_ns=upper - lower,
        low_ns=low,
        high_ns=high,
        samples=sum(array.size for array in arrays),
        processes=len(arrays),
    )


def median_of_medians(processes: Sequence[Samples]) -> float:
    """Raises ValueError without any sample."""
    return _vote(_sorted(processes))


def median_interval(processes: Sequence[Samples], seed: Seed = 0) -> tuple[float, float]:
    """95% interval of the median of process medians: percentile bootstrap (Efron 1979), hierarchical.

    Each of `RESAMPLES` draws takes as many processes as there are, with replacement, and inside each
    as many samples. With one process this is the ordinary bootstrap of its samples, which says
    nothing of other processes; with 2 to 4 it is too narrow. Fewer than `MIN_DRAWN` samples of one
    process give (0, inf). Raises ValueError without any sample.
    """
    return _interval(_sorted(processes), seed)


def draw_medians(processes: Sequence[Samples], seed: Seed) -> Floats:
    """(RESAMPLES,) medians of process medians, resampled as `median_interval` does.

    The draws for one seed and the same numbers of samples are the same positions in the data: two sides
    that are compared need two seeds. Raises ValueError without any sample.
    """
    return _drawn(_sorted(processes), seed)


def quantiles(values: Floats, shares: Sequence[float]) -> list[float]:
    """As np.quantile, with the same interpolation, and a tenth of its time for few values. values: (n,)."""
    values = np.sort(values)
    places = [share * (values.size - 1) for share in shares]
    below = [values[int(place)] for place in places]
    above = [values[min(int(place) + 1, values.size - 1)] for place in places]
    return [float(b + (a - b) * (place % 1)) for b, a, place in zip(below, above, places, strict=True)]


def proportion_interval(fraction: float, n: int) -> tuple[float, float]:
    """95% interval of a share that was found on n independent images: Wilson's score interval (1927).

    fraction is k/n for a whole number k. Raises ValueError for anything else.

    >>> proportion_interval(1.0, 360)
    (0.9894, 1.0)
    """
    hits = round(fraction * n)
    if n < 1 or abs(hits - fraction * n) > 1e-6 * n:
        raise ValueError(f"{fraction} is not a share of {n} images")
    low, high = wilson(hits, n)
    return round(low, 4), round(high, 4)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """As `proportion_interval`, of a count and not rounded. Raises ValueError for what is no count."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} is no number of {n} images")
    share, z = hits / n, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(center - half, 0.0), min(center + half, 1.0)


def ratio_interval(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Ratio a to b with its 95% interval (ratio, low, high), from process medians that were taken in pairs.

    a[i] and b[i] ran one right after the other, so what slows both cancels pair by pair. The ratio
    is the median over pairs, the interval a bootstrap over pairs; fewer than `MIN_DRAWN` pairs give
    (ratio, 0, inf). Raises ValueError for lists of unequal length, empty ones, and values <= 0.
    """
    if len(a) != len(b) or not a or min(*a, *b) <= 0:
        raise ValueError(f"pairs of positive numbers are needed, not {len(a)} and {len(b)} values")
    ratios = np.divide(a, b).tolist()
    return float(np.median(ratios)), *median_interval([ratios], seed)


def _sorted(processes: Sequence[Samples]) -> list[Floats]:
    arrays = [np.sort(np.asarray(samples, dtype=np.float64)) for samples in processes]
    if not arrays or not all(array.size for array in arrays):
        raise ValueError("every process needs at least one sample")
    return arrays


def _interval(arrays: list[Floats], seed: Seed) -> tuple[float, float]:
    if len(arrays) == 1 and arrays[0].size < MIN_DRAWN:
        return 0.0, float("inf")
    low, high = quantiles(_drawn(arrays, seed), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return low, high


def _vote(arrays: list[Floats]) -> float:
    return _median(np.sort([_median(array) for array in arrays]))


def _median(ordered: Floats) -> float:
    """Of values that are sorted."""
    return float(ordered[(ordered.size - 1) // 2] + ordered[ordered.size // 2]) / 2


def _drawn(arrays: list[Floats], seed: Seed) -> Floats:
    """As `draw_medians`, of arrays that are sorted."""
    values = np.concatenate(arrays)
    # mode: the default checks positions into a buffer, for half of the time.
    return (
        _middle_of_rows(
            [
                values.take(lower, mode="clip") + values.take(upper, mode="clip")
                for lower, upper in _middles(tuple(array.size for array in arrays), seed)
            ]
        )
        / 2
    )


def _middle_of_rows(rows: list[Floats]) -> Floats:
    """Median over the rows at each place, by a bubble sort as far as the middle: faster than np.median."""
    rows = list(rows)
    middle = (len(rows) - 1) // 2
    for last in range(len(rows) - 1, middle - 1, -1):
        for i in range(last):
            rows[i], rows[i + 1] = np.minimum(rows[i], rows[i + 1]), np.maximum(rows[i], rows[i + 1])
    return np.asarray((rows[middle] + rows[len(rows) // 2]) / 2, dtype=np.float64)


@lru_cache(maxsize=16)
def _middles(sizes: tuple[int, ...], seed: Seed) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Where the two middle values of each resample lie, which only sizes and seed decide.

    For each process to draw, two arrays (RESAMPLES,) of positions in the concatenation of the sorted
    arrays. To resample n sorted values is to take those at n uniform positions, and the k-th smallest of
    n uniform numbers is Beta(k, n + 1 - k) distributed; given it, the next one is the smallest of n - k
    uniform numbers above it. So the one or two middle values are drawn directly, instead of all n.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(sizes), size=(len(sizes), RESAMPLES))
    n = np.array(sizes)[chosen]
    k = (n + 1) // 2
    first = rng.beta(k, n + 1 - k)
    above = rng.beta(1, np.maximum(n - k, 1))
    second = np.where(n % 2, first, first + (1 - first) * above)
    starts = np.concatenate([[0], np.cumsum(sizes)])[chosen]
    lower, upper = (starts + np.minimum((u * n).astype(np.intp), n - 1) for u in (first, second))
    return list(zip(lower, upper, strict=True))
