"""From which share of zeros on a sparse network is faster: what was measured, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import inf, log
from statistics import median, median_low
from typing import TYPE_CHECKING

import numpy as np

from dlas.results.statistics import CONFIDENCE, MIN_DRAWN, RESAMPLES, ratio_interval

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Level:
    """A network pruned to a level: its times in turn with the peer's and our dense one's, round by round.

    zeros and zero_macs: shares of its weights, and of its multiply-adds. sparse: how many of its convolutions
    are computed so. bytes: of its constants.
    """

    percent: int
    ours_ns: tuple[float, ...]
    zeros: float
    zero_macs: float
    sparse: int
    convolutions: int
    bytes: int


@dataclass(frozen=True)
class Contest:
    """One network or layer on so many threads. The times of a round belong together."""

    name: str
    threads: int
    pruning: str
    algorithm: str
    dense_algorithm: str
    dense_ns: tuple[float, ...]
    peer_ns: tuple[float, ...]
    levels: tuple[Level, ...]

    def break_even(self, rivals_ns: Sequence[float]) -> tuple[float, float, float]:
        """The share of zeros from which on it is faster than a rival, with its 95% interval over rounds.

        Between levels, the ratio's logarithm is taken to be linear. -inf: faster at all levels; inf: not at
        the last. Levels at which nothing is sparse do not count: there, dense is compared with itself. The
        interval is a bootstrap over rounds; of fewer than `MIN_DRAWN` of them it is from -inf to inf.
        """
        sparse = [level for level in self.levels if level.sparse]
        found = [
            crossing([(level.zeros, rival / level.ours_ns[number]) for level in sparse])
            for number, rival in enumerate(rivals_ns)
        ]
        if len(found) < MIN_DRAWN:
            return median_low(found), -inf, inf
        # Sorted, and taken at places rather than between them: there is no middle between a share and inf.
        chosen = np.random.default_rng(0).integers(len(found), size=(RESAMPLES, len(found)))
        medians = np.sort(np.sort(np.array(found)[chosen], axis=1)[:, (len(found) - 1) // 2])
        low, high = (medians[round(share * (RESAMPLES - 1))] for share in _TAILS)
        return median_low(found), float(low), float(high)


_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


def crossing(points: Sequence[tuple[float, float]]) -> float:
    """Where a ratio last becomes 1, of (share of zeros, ratio) in rising order; as in `Contest.break_even`.

    >>> round(crossing([(0.5, 0.5), (0.7, 2.0), (0.9, 4.0)]), 3)
    0.6
    """
    if not points or points[-1][1] < 1:
        return inf
    for (low, before), (high, after) in reversed(list(pairwise(points))):
        if before < 1:
            return low + (high - low) * log(1 / before) / log(after / before)
    return -inf


@dataclass(frozen=True)
class Report:
    """What was compared. rich prints it."""

    contests: tuple[Contest, ...]
    format: str
    against: str
    rounds: int
    repeats: int
    runner: str
    cpu_model: str
    versions: Mapping[str, str]
    date: datetime

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table

        parts: list[Table] = []
        for contest in self.contests:
            dense_ms, peer_ms = (median(times) / 1e6 for times in (contest.dense_ns, contest.peer_ns))
            title = (
                f"{contest.name}, threads {contest.threads}: {contest.pruning} pruning, {self.format} "
                f"{contest.algorithm}; our dense ({contest.dense_algorithm}) {dense_ms:.3f} ms, "
                f"{self.against} dense {peer_ms:.3f} ms"
            )
            table = Table(title=title)
            for heading in ("zeros", "zero MACs", "sparse", "MB", "ours ms"):
                table.add_column(heading, justify="right")
            table.add_column(f"{self.against} / ours", justify="right")
            table.add_column("our dense / ours", justify="right")
            for level in contest.levels:
                table.add_row(*_cells(level, contest))
            ends = ((self.against, contest.peer_ns), ("our dense", contest.dense_ns))
            table.caption = "break-even at zeros: " + "; ".join(
                f"{_share(contest, times)} against {name}" for name, times in ends
            )
            parts.append(table)
        return Group(*parts, self.conditions())

    def conditions(self) -> str:
        """One line: on what and with what it was measured."""
        versions = ", ".join(f"{name} {text}" for name, text in self.versions.items())
        return (
            f"{self.rounds} rounds of one process each with {self.repeats} inferences; {self.cpu_model}; "
            f"runner {self.runner}; {versions}; {self.date:%Y-%m-%d %H:%M} UTC"
        )


def _cells(level: Level, contest: Contest) -> tuple[str, ...]:
    def speedup(rivals_ns: Sequence[float]) -> str:
        ratio, low, high = ratio_interval(rivals_ns, level.ours_ns)
        if len(rivals_ns) < MIN_DRAWN:
            return f"{ratio:.2f}x, too few rounds"
        verdict = "faster" if low > 1 else "slower" if high < 1 else "undecided"
        return f"{ratio:.2f}x ({low:.2f} .. {high:.2f}) {verdict}"

    return (
        f"{level.zeros:.1%}",
        f"{level.zero_macs:.1%}",
        f"{level.sparse} of {level.convolutions}",
        f"{level.bytes / 1e6:.2f}",
        f"{median(level.ours_ns) / 1e6:.3f}",
        speedup(contest.peer_ns),
        speedup(contest.dense_ns),
    )


def _share(contest: Contest, rivals_ns: Sequence[float]) -> str:
    """The break-even in words."""
    first, last = contest.levels[0].zeros, contest.levels[-1].zeros

    def word(share: float) -> str:
        if share == -inf:
            return f"below {first:.0%}"
        return f"above {last:.0%}" if share == inf else f"{share:.1%}"

    middle, low, high = contest.break_even(rivals_ns)
    if len(rivals_ns) < MIN_DRAWN:
        return f"{word(middle)} (too few rounds)"
    return word(middle) if low == high else f"{word(middle)} ({word(low)} .. {word(high)})"
