"""Two ways to compute the same thing, timed in turn, a whole process each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from dlas.results.statistics import ratio_interval

Run = Callable[[], Sequence[int]]  # one process: its samples in nanoseconds


@dataclass(frozen=True)
class Comparison:
    """Medians of processes that ran in pairs, one right after the other; ratio is ours to the peer's.

    low and high bound the ratio's 95% interval over pairs.
    """

    ours_ns: tuple[float, ...]
    peer_ns: tuple[float, ...]
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """faster, slower or undecided: what the whole interval says of ours.

        >>> Comparison((9.0,), (10.0,), 0.9, 0.85, 0.95).verdict
        'faster'
        """
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "undecided"


def compare(ours: Run, peer: Run, rounds: int) -> Comparison:
    """Run both once in each round. Who goes first changes with the round, so that a drift cancels."""
    ours_ns: list[float] = []
    peer_ns: list[float] = []
    for number in range(rounds):
        turns = [(ours, ours_ns), (peer, peer_ns)]
        for run, medians in turns if number % 2 == 0 else reversed(turns):
            medians.append(median(run()))
    return Comparison(tuple(ours_ns), tuple(peer_ns), *ratio_interval(ours_ns, peer_ns))
