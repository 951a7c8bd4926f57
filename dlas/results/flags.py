"""What is odd about a process or a configuration: drift, two modes, outliers. Each is a known statistic.

A flag changes no verdict: it says that a median hides something. Drift and modes need a test at 5% and a
size that is worth telling, `WORTH_FRACTION`. How often each is raised where nothing is odd, and how often
it finds what is, stands in `docs/statistics.md`; `tests/results/test_flags.py` holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dlas.results.statistics import CONFIDENCE, MIN_DRAWN, Floats, Samples

WORTH_FRACTION = 0.02
_BLOCKS = 10
# With 40 samples that follow each other by 0.9, drift would be found in 13% of the rows that have none.
MIN_SAMPLES = 100
_Z = 1.96
_NULL_DRAWS = 4000
# Rows that are computed together: as many as stay in a cache.
_CHUNK = 500

T = TypeVar("T")


@dataclass(frozen=True)
class Flags:
    """Of one process. Fewer than `MIN_SAMPLES` samples are never found to drift or to have modes.

    drift_fraction: how much longer the last third of the samples takes than the first, by their medians.
    modes_fraction: how much longer the slower one of the two likeliest groups takes, whether they are modes
    or not. outlier_fraction: the share of samples beyond Tukey's fences.
    """

    drift_fraction: float
    is_drifting: bool
    modes_fraction: float
    is_bimodal: bool
    outlier_fraction: float


@dataclass(frozen=True)
class ConfigurationFlags:
    """Of each process, and of their medians: modes_fraction and is_bimodal are as in `Flags`.

    is_bimodal: some processes are in a fast mode and others in a slow one, as happens with pools of threads;
    fewer than `MIN_DRAWN` processes are never found to be.
    """

    processes: tuple[Flags, ...]
    modes_fraction: float
    is_bimodal: bool


def of_configurations(configurations: Sequence[Sequence[Samples]]) -> list[ConfigurationFlags]:
    """Flags of each, from its processes with their samples in the order in which they were taken.

    All at once: a row costs 20 microseconds then, and hundreds alone. Raises ValueError without any sample.
    """
    if not all(len(samples) for processes in configurations for samples in processes):
        raise ValueError("every process needs at least one sample")
    found = iter(_by_size([each for processes in configurations for each in processes], _flags))
    rows = [[next(found) for _ in processes] for processes in configurations]
    modes = _by_size([[median for _, median in each] for each in rows], _modes_of_medians)
    return [
        ConfigurationFlags(tuple(flags for flags, _ in each), *pair)
        for each, pair in zip(rows, modes, strict=True)
    ]


def _by_size(arrays: Sequence[Samples], function: Callable[[Floats], list[T]]) -> list[T]:
    """What a function of (rows, n) arrays gives for each of these, in their order."""
    groups: dict[int, list[int]] = {}
    for index, array in enumerate(arrays):
        groups.setdefault(len(array), []).append(index)
    found: dict[int, T] = {}
    for indices in groups.values():
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK]
            rows = np.array([arrays[index] for index in chunk], dtype=np.float64)
            found.update(zip(chunk, function(rows), strict=True))
    return [found[index] for index in range(len(arrays))]


def _flags(rows: Floats) -> list[tuple[Flags, float]]:
    """The flags and the median of each row."""
    ordered = np.sort(rows, axis=1)
    low, high = _fences(ordered)
    is_outlier = (rows < low) | (rows > high)
    if rows.shape[1] >= MIN_SAMPLES:
        is_drifting = _trend(rows - _quantile(ordered, 0.5), is_outlier) > _Z
    else:
        is_drifting = np.zeros(len(rows), dtype=bool)
    drift, (modes, is_bimodal) = _drift(rows), _modes(ordered, low, high, MIN_SAMPLES)
    is_drifting &= np.abs(drift) >= WORTH_FRACTION
    columns = (drift, is_drifting, modes, is_bimodal, is_outlier.mean(axis=1))
    flags = [Flags(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return list(zip(flags, _quantile(ordered, 0.5)[:, 0].tolist(), strict=True))


def _modes_of_medians(medians: Floats) -> list[tuple[float, bool]]:
    ordered = np.sort(medians, axis=1)
    modes, is_bimodal = _modes(ordered, *_fences(ordered), MIN_DRAWN)
    return list(zip(modes.tolist(), is_bimodal.tolist(), strict=True))


def _fences(ordered: Floats) -> tuple[Floats, Floats]:
    """Q1 - 1.5 IQR and Q3 + 1.5 IQR (Tukey, Exploratory Data Analysis, 1977), each (rows, 1)."""
    lower, upper = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    return lower - 1.5 * (upper - lower), upper + 1.5 * (upper - lower)


def _quantile(ordered: Floats, share: float) -> Floats:
    """(rows, 1) of rows that are sorted, interpolated as np.quantile does."""
    last = ordered.shape[1] - 1
    place = share * last
    below, above = int(place), min(int(place) + 1, last)
    lower, upper = ordered[:, below : below + 1], ordered[:, above : above + 1]
    return np.asarray(lower + (upper - lower) * (place - below), dtype=np.float64)


def _drift(rows: Floats) -> Floats:
    """(rows,) by which the median of the last third exceeds that of the first."""
    third = max(rows.shape[1] // 3, 1)
    first, last = (
        _quantile(np.sort(part, axis=1), 0.5)[:, 0] for part in (rows[:, :third], rows[:, -third:])
    )
    return _excess(last, first)


def _excess(a: Floats, b: Floats) -> Floats:
    """a / b - 1; 0 where b is 0."""
    return np.divide(a, b, out=np.ones_like(a), where=b != 0) - 1


def _trend(rows: Floats, is_outlier: NDArray[np.bool_]) -> Floats:
    """(rows,) of the size of Mann and Kendall's z for a trend, on the medians of `_BLOCKS` blocks.

    rows: with their medians taken off. The variance is that of Hamed and Rao (1998, Journal of Hydrology
    204, 182-196) for values that follow each other: with the autocorrelations of the means of blocks when
    the samples are a first-order autoregression.
    """
    n, size = rows.shape[1], rows.shape[1] // _BLOCKS
    blocks = np.sort(rows[:, : size * _BLOCKS].reshape(-1, _BLOCKS, size), axis=2)
    medians = blocks[:, :, (size - 1) // 2] + blocks[:, :, size // 2]
    earlier, later = np.triu_indices(_BLOCKS, 1)
    score = np.abs(np.sign(medians[:, later] - medians[:, earlier]).sum(axis=1))
    time = np.arange(n) - (n - 1) / 2
    level = np.where(is_outlier, 0, rows)  # outliers hide how samples follow each other
    level -= level.mean(axis=1, keepdims=True)
    follows = _autocorrelation(level - np.outer(level @ time / (time @ time), time))
    variance = _BLOCKS * (_BLOCKS - 1) * (2 * _BLOCKS + 5) / 18 * _inflation(follows, size)
    return np.asarray(np.maximum(score - 1, 0) / np.sqrt(variance), dtype=np.float64)


def _autocorrelation(residuals: Floats) -> Floats:
    """(rows,) between neighbours, 0 to 0.98, with the correction for its bias (Kendall 1954)."""
    n = residuals.shape[1]
    squares = (residuals**2).sum(axis=1)
    products = (residuals[:, 1:] * residuals[:, :-1]).sum(axis=1)
    raw = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0)
    return np.asarray(np.clip((n * raw + 1) / (n - 4), 0, 0.98), dtype=np.float64)


def _inflation(follows: Floats, size: int) -> Floats:
    """(rows,) by which the variance of Mann and Kendall's score of blocks exceeds that of plain noise."""
    ones = 1 - follows
    own = size * (1 + follows) / ones - 2 * follows * (1 - follows**size) / ones**2
    neighbours = follows * (1 - follows**size) ** 2 / ones**2 / own
    total = np.ones_like(follows)
    for lag in range(1, _BLOCKS - 2):
        left = _BLOCKS - lag
        share = left * (left - 1) * (left - 2) / (_BLOCKS * (_BLOCKS - 1) * (_BLOCKS - 2))
        total += 2 * share * neighbours * follows ** (size * (lag - 1))
    return total


def _modes(ordered: Floats, low: Floats, high: Floats, least: int) -> tuple[Floats, NDArray[np.bool_]]:
    """(rows,) by which the slower of two groups exceeds the faster, and whether the two are modes.

    The groups are those with the smallest variance inside them (Otsu 1979), of values without outliers. They
    are modes where they leave less of the variance inside than they do in 95% of uniform samples: so does
    SigClust with clusters (Liu, Hayes, Nobel and Marron 2008, JASA 103, 1281-1293), but for a normal. Of what
    has one mode and no long tail, the uniform splits best. Equal values lie evenly over one step of the timer
    for that. least: fewer values have no modes.
    """
    rows, n = ordered.shape
    if n < 2:
        return np.zeros(rows), np.zeros(rows, dtype=bool)
    inside = _without_outliers(ordered, low, high)
    size, _ = _split(inside)
    fast = np.cumsum(inside, axis=1)[np.arange(rows), size - 1]
    excess = _excess((inside.sum(axis=1) - fast) / (n - size), fast / size)
    is_bimodal = (excess >= WORTH_FRACTION) & (n >= least)
    if is_bimodal.any():
        is_bimodal[is_bimodal] = _split(_spread(inside[is_bimodal]))[1] > _critical_share(n)
    return excess, is_bimodal


def _spread(ordered: Floats) -> Floats:
    """Rows that are sorted, with equal values spread evenly over the row's smallest step."""
    gaps = np.diff(ordered, axis=1)
    step = np.where(gaps > 0, gaps, np.inf).min(axis=1, keepdims=True)
    step[np.isinf(step)] = 0
    place = np.broadcast_to(np.arange(ordered.shape[1]), ordered.shape)
    edge = np.ones((len(ordered), 1), dtype=bool)
    is_new = gaps > 0
    first = np.maximum.accumulate(np.where(np.hstack([edge, is_new]), place, 0), axis=1)
    ends = np.where(np.hstack([is_new, edge]), place, ordered.shape[1])
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(ordered + step * ((place - first + 0.5) / (last - first + 1) - 0.5), dtype=np.float64)


def _without_outliers(ordered: Floats, low: Floats, high: Floats) -> Floats:
    """What lies beyond the fences becomes the outermost value that does not."""
    is_inside = (ordered >= low) & (ordered <= high)
    least = np.where(is_inside, ordered, np.inf).min(axis=1, keepdims=True)
    most = np.where(is_inside, ordered, -np.inf).max(axis=1, keepdims=True)
    return np.clip(ordered, least, most)


def _split(ordered: Floats) -> tuple[NDArray[np.intp], Floats]:
    """(rows,) size of the lower of the two groups, and the share of the variance that is between them."""
    n = ordered.shape[1]
    centered = ordered - ordered.mean(axis=1, keepdims=True)
    count = np.arange(1, n)
    between = np.cumsum(centered, axis=1)[:, :-1] ** 2 * n / (count * (n - count))
    squares = (centered**2).sum(axis=1)
    share = np.divide(between.max(axis=1), squares, out=np.zeros_like(squares), where=squares > 0)
    return between.argmax(axis=1) + 1, share


@lru_cache(maxsize=64)
def _critical_share(n: int) -> float:
    """What 95% of uniform samples of n stay below."""
    draws = np.sort(np.random.default_rng(0).random((_NULL_DRAWS, n)), axis=1)
    return float(np.quantile(_split(draws)[1], CONFIDENCE))


def describe(found: ConfigurationFlags) -> str:
    """What is odd about a configuration, in words; empty where nothing is."""
    told = []
    drifting = [each.drift_fraction for each in found.processes if each.is_drifting]
    bimodal = [each.modes_fraction for each in found.processes if each.is_bimodal]
    of = f"of {len(found.processes)} processes"
    if drifting:
        told.append(f"{len(drifting)} {of} drift, the furthest by {max(drifting, key=abs):+.1%}")
    if bimodal:
        told.append(f"{len(bimodal)} {of} have two modes, up to {max(bimodal):.1%} apart")
    if found.is_bimodal:
        told.append(f"fast and slow processes, {found.modes_fraction:.1%} apart")
    return "; ".join(told)
