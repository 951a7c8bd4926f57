"""Ours, as a search left it, against several at once: what was measured, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

from dlas.bench.compare import Comparison, in_pairs

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_VERDICT = ("95% interval", "tuned is")


@dataclass(frozen=True)
class Effort:
    """What the choices of a network rest on; alike convolutions share one search.

    convolutions: of the network, and with_record those of them that have a record. trials: of all searches,
    and most of one. threads: what the searches ran with. imported: how many searches were not made here.
    """

    convolutions: int
    with_record: int
    searches: int
    trials: int
    most: int
    threads: tuple[int, ...]
    imported: int = 0

    def __str__(self) -> str:
        """In words.

        >>> print(Effort(20, 19, 10, 400, 40, (1,)))
        19 of 20 convolutions have a record, 400 trials in 10 searches on threads 1, at most 40 in one
        """
        threads = ",".join(map(str, self.threads))
        words = (
            f"{self.with_record} of {self.convolutions} convolutions have a record, {self.trials} trials in "
            f"{self.searches} searches on threads {threads}, at most {self.most} in one"
        )
        return f"{words}; {self.imported} of these searches were made elsewhere" if self.imported else words


@dataclass(frozen=True)
class Contest:
    """One network, or one convolution of it, on so many threads.

    times_ns: medians of processes by contestant; those of a round belong together. The first contestant is
    the tuned one; peers are the last ones. macs: multiply-adds of a convolution, 0 for a network.
    """

    network: str
    threads: int
    times_ns: Mapping[str, tuple[float, ...]]
    peers: tuple[str, ...]
    effort: Effort
    layer: str = ""
    macs: int = 0

    @property
    def tuned(self) -> str:
        return next(iter(self.times_ns))

    @property
    def rivals(self) -> tuple[str, ...]:
        return tuple(self.times_ns)[1:]

    @property
    def best_peer(self) -> str:
        """The peer with the least median over rounds."""
        return min(self.peers, key=self.median_ns)

    def median_ns(self, name: str) -> float:
        return median(self.times_ns[name])

    def against(self, name: str) -> Comparison:
        """The tuned one against another."""
        return in_pairs(self.times_ns[self.tuned], self.times_ns[name])


@dataclass(frozen=True)
class Report:
    """What was compared. rich prints it.

    few_repeats: inferences of each process of those that get fewer, by contestant. block: channels in a block
    of the convolutions' input and output, 0 where these are NCHW.
    """

    contests: tuple[Contest, ...]
    algorithm: str
    rounds: int
    repeats: int
    few_repeats: Mapping[str, int]
    block: int
    runner: str
    cpu_model: str
    versions: Mapping[str, str]
    date: datetime

    def __rich__(self) -> Group:
        from rich.console import Group

        tables = list(self._tables())
        if len(tables) > 1 and not self.contests[0].layer:
            tables.append(summary_table(self.contests, self.algorithm))
        return Group(*tables, self.conditions())

    def _tables(self) -> Iterator[Table]:
        groups: dict[tuple[str, int], list[Contest]] = {}
        for contest in self.contests:
            groups.setdefault((contest.network, contest.threads), []).append(contest)
        for group in groups.values():
            if group[0].layer:
                yield layers_table(group, self.algorithm, self.block)
            else:
                yield network_table(group[0], self.algorithm)

    def conditions(self) -> str:
        """One line: on what and with what it was measured."""
        few = "".join(f" ({count} of {name})" for name, count in self.few_repeats.items())
        most = max(contest.effort.most for contest in self.contests)
        versions = ", ".join(f"{name} {text}" for name, text in self.versions.items())
        return (
            f"{self.rounds} rounds of one process each with {self.repeats} inferences{few}; at most {most} "
            f"trials in a search; {self.cpu_model}; runner {self.runner}; {versions}; "
            f"{self.date:%Y-%m-%d %H:%M} UTC"
        )


def network_table(contest: Contest, algorithm: str) -> Table:
    """A line for each contestant."""
    title = f"{contest.network}, threads {contest.threads}: {contest.tuned}, {algorithm}"
    table = _table(title, "contestant", ("ms", "tuned / it", *_VERDICT))
    table.add_row(contest.tuned, _ms(contest, contest.tuned))
    for name in contest.rivals:
        table.add_row(name, _ms(contest, name), *_ratio(contest, name))
    best = contest.against(contest.best_peer)
    table.caption = (
        f"tuned / best peer ({contest.best_peer}): {best.ratio:.3f} ({best.interval}), {best.verdict}\n"
        f"{contest.effort}"
    )
    return table


def layers_table(contests: Sequence[Contest], algorithm: str, block: int) -> Table:
    """A line for each convolution of a network, which all have the same contestants."""
    first = contests[0]
    names = (first.tuned, *first.rivals)
    own = tuple(name for name in first.rivals if name not in first.peers)
    ratios = tuple(f"tuned / {name}" for name in (*own, "best peer"))
    headings = ("GMAC", *(f"{name}, ms (GFLOP/s)" for name in names), *ratios, *_VERDICT)
    title = (
        f"{first.network}, threads {first.threads}: convolutions alone, each with bias and ReLU, {algorithm}"
    )
    table = _table(title, "convolution", headings)
    for contest in contests:
        speeds = (f"{_ms(contest, name)} ({_gflops(contest, name):.0f})" for name in names)
        ours = (f"{contest.against(name).ratio:.3f}" for name in own)
        row = (f"{contest.macs / 1e9:.3f}", *speeds, *ours, *_ratio(contest, contest.best_peer))
        table.add_row(contest.layer, *row)
    lies = f"ours read and write blocks of {block} channels, as in the network; " if block else ""
    table.caption = (
        f"{lies}peers read and write NCHW: what they convert, and their call from Python, is in their times\n"
        f"interval and verdict are against the best peer of each convolution\n{first.effort}"
    )
    return table


def summary_table(contests: Sequence[Contest], algorithm: str) -> Table:
    """A line for each network and number of threads."""
    first = contests[0]
    headings = ("threads", "tuned ms", *(f"tuned / {name}" for name in first.peers))
    headings += ("tuned / best peer", *_VERDICT, "with record", "most trials")
    table = _table(f"all networks: {first.tuned}, {algorithm}", "network", headings)
    for contest in contests:
        peers = (f"{contest.against(name).ratio:.3f}" for name in contest.peers)
        row = (str(contest.threads), _ms(contest, contest.tuned), *peers)
        row += _ratio(contest, contest.best_peer)
        effort = contest.effort
        table.add_row(
            contest.network, *row, f"{effort.with_record} of {effort.convolutions}", str(effort.most)
        )
    return table


def _table(title: str, name: str, headings: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    table.add_column(name, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == _VERDICT[-1] else "right")
    return table


def _ms(contest: Contest, name: str) -> str:
    return f"{contest.median_ns(name) / 1e6:.3f}"


def _gflops(contest: Contest, name: str) -> float:
    return 2 * contest.macs / contest.median_ns(name)


def _ratio(contest: Contest, name: str) -> tuple[str, str, str]:
    found = contest.against(name)
    return f"{found.ratio:.3f}", found.interval, found.verdict
