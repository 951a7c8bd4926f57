"""By how much a device's times of one artifact differ from themselves: the A/A noise floor.

A verdict's interval covers the differences between the processes that were run. Cells of a sweep run minutes
apart, and a machine may meanwhile go from one phase to another (its temperature, what else runs on it), which
all processes of a cell then share and no interval of theirs covers. Running one artifact over and over for as
long shows how large that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlas.results import statistics, verdict
from dlas.results.statistics import CONFIDENCE, MIN_DRAWN, RESAMPLES, Samples, Seed
from dlas.results.verdict import Verdict

MIN_PROCESSES = 2 * MIN_DRAWN


@dataclass(frozen=True)
class Noise:
    """Of one device and artifact. floor_fraction, for `verdict.judge`, is the larger of the next two.

    splits_fraction: by how much the medians of two random groups of `MIN_DRAWN` processes differ at most in
    95% of the splits. phases_fraction: by how much the slowest `MIN_DRAWN` processes in a row differ from the
    fastest in a row. halves_ratio: of the last half to the first, with its 95% interval. alternating: what
    the even processes are to the odd ones; anything but `undecided` is false, as 5% of these may be.
    """

    floor_fraction: float
    splits_fraction: float
    phases_fraction: float
    halves_ratio: float
    halves_low: float
    halves_high: float
    alternating: Verdict
    processes: int


def floor(processes: Sequence[Samples], seed: Seed = 0) -> Noise:
    """From the processes of one artifact in the order in which they ran, each with its samples, all positive.

    With M(g) the median of the process medians of a group g, and all groups of `MIN_DRAWN` processes:
    splits is the 95% quantile of max(M(g) / M(h), M(h) / M(g)) - 1 over random disjoint g and h, phases is
    the maximum of M(g) / M(h) - 1 over g and h of processes in a row. The floor is right for cells that were
    measured no further apart than the first of these processes from the last. Raises ValueError for fewer
    than `MIN_PROCESSES` processes, and without samples.
    """
    count = len(processes)
    if count < MIN_PROCESSES:
        raise ValueError(f"noise needs {MIN_PROCESSES} processes, not {count}")
    logs = np.log([statistics.median_of_medians([samples]) for samples in processes])
    order = np.random.default_rng(seed).random((RESAMPLES, count)).argsort(axis=1)
    groups = np.median(logs[order[:, :MIN_PROCESSES].reshape(-1, 2, MIN_DRAWN)], axis=2)
    rows = np.median(np.lib.stride_tricks.sliding_window_view(logs, MIN_DRAWN), axis=1)
    splits = float(np.expm1(np.quantile(np.abs(groups[:, 0] - groups[:, 1]), CONFIDENCE)))
    phases = float(np.expm1(rows.max() - rows.min()))
    low, ratio, high = verdict.ratio_of_medians(processes[count // 2 :], processes[: count // 2])
    return Noise(
        floor_fraction=max(splits, phases),
        splits_fraction=splits,
        phases_fraction=phases,
        halves_ratio=ratio,
        halves_low=low,
        halves_high=high,
        alternating=verdict.judge(processes[::2], processes[1::2]),
        processes=count,
    )
