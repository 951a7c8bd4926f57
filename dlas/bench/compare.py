"""Two ways to compute the same thing, timed in turn, a whole process each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    @property
    def interval(self) -> str:
        """The interval in words.

        >>> Comparison((9.0,), (10.0,), 0.9, 0.85, 0.95).interval
        '0.850 to 0.950'
        """
        return f"{self.low:.3f} to {self.high:.3f}" if self.low > 0 else "too few rounds"


def compare(ours: Run, peer: Run, rounds: int) -> Comparison:
    """Run both once in each round. Who goes first changes with the round, so that a drift cancels."""
    times_ns = take_turns({"ours": ours, "peer": peer}, rounds)
    return in_pairs(times_ns["ours"], times_ns["peer"])


def in_pairs(ours_ns: Sequence[float], peer_ns: Sequence[float]) -> Comparison:
    """Of medians that were taken in turn, by round. Raises ValueError as `ratio_interval`."""
    return Comparison(tuple(ours_ns), tuple(peer_ns), *ratio_interval(ours_ns, peer_ns))


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, tuple[float, ...]]:
    """Run each once in each round, every other round in reverse. Returns the medians, by round."""
    medians_ns: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in runs if number % 2 == 0 else reversed(tuple(runs)):
            medians_ns[name].append(median(runs[name]()))
    return {name: tuple(medians) for name, medians in medians_ns.items()}
