"""Two sets of rows, cell by cell: what is faster, what slower, and what nobody can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import exp, sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np

from dlas.errors import UsageError, did_you_mean
from dlas.results import entries, statistics, store, verdict
from dlas.results.entries import CELL_AXES, Entry
from dlas.results.floors import Floors
from dlas.results.lines import Line, by_key, judge, lines_of
from dlas.results.tables import aligned, count, interval_text, unit_of
from dlas.results.verdict import Verdict

# Columns that a side can be chosen by: those of whole names by globs, those of hashes by how they begin.
NAMED = (*CELL_AXES, "runner", "threads", "gpu")
HASHED = ("device", "commit", "artifact_sha256", "inputs_key")
PLACE = ("device", "runner", "threads")
# What changes with a column, so that pairs need not agree in it.
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "target": PLACE,
    "dataset": ("model",),
    "device": ("target", "threads"),
}


@dataclass(frozen=True)
class Side:
    """Rows of a sweep that these columns choose, as `digits,algorithm=direct` asks for."""

    sweep: str
    columns: Mapping[str, str]

    def __str__(self) -> str:
        return ",".join([self.sweep, *(f"{name}={value}" for name, value in self.columns.items())])

    def holds(self, row: Entry) -> bool:
        return all(_matches(name, str(getattr(row, name)), asked) for name, asked in self.columns.items())


@dataclass(frozen=True)
class Pair:
    """The same but for what the sides name. verdict: of a against b, the ratio being a's time to b's."""

    a: Line
    b: Line
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """What two sides have in common. alone: lines of a side without a partner; several: keys with many."""

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    alone: tuple[int, int]
    several: tuple[str, ...]


def parse(text: str, sweep: str) -> Side:
    """A side from words as in `digits,algorithm=direct`; the sweep may be left out where there is another.

    Raises UsageError.
    """
    columns: dict[str, str] = {}
    for word in filter(None, text.split(",")):
        name, equals, value = word.partition("=")
        if not equals:
            sweep = word
        elif name in (*NAMED, *HASHED) and value:
            columns[name] = value
        else:
            known = ", ".join((*NAMED, *HASHED))
            step = did_you_mean(name, (*NAMED, *HASHED)) or f"columns are {known}"
            raise UsageError(f"{text!r}: {word!r} chooses nothing", step)
    if not sweep:
        raise UsageError(f"{text!r} names no sweep", "as in digits,algorithm=direct, or give --sweep")
    return Side(sweep, columns)


def compare(artifacts: Path, a: Side, b: Side, floors: Floors) -> Comparison:
    """Pair the lines of two sides and judge each pair.

    Raises UsageError where a side has no rows with times, or there is no pair, StorageError
    for a damaged file.
    """
    free = {*a.columns, *b.columns}
    free |= {other for name in free for other in FOLLOWS.get(name, ())}
    names = [name for name in (*CELL_AXES, *PLACE) if name not in free]
    stored = {sweep: _read(artifacts, sweep) for sweep in {a.sweep, b.sweep}}
    sides = [
        by_key(
            _lines(artifacts, side, stored[side.sweep]),
            lambda line: tuple(getattr(line.first, name) for name in names),
        )
        for side in (a, b)
    ]
    shared = [key for key in sides[0] if key in sides[1]]
    single = [key for key in shared if len(sides[0][key]) == len(sides[1][key]) == 1]
    several = tuple("/".join(map(str, key)) for key in shared if key not in single)
    if not single:
        told = "each has several lines" if several else "they have no cell in common"
        raise UsageError(f"{a} and {b}: {told}", "name columns in which they differ, as in format=dense")
    pairs = []
    for key in single:
        (first,), (second,) = sides[0][key], sides[1][key]
        noise = max(floors.of(first.first), floors.of(second.first))
        judged = judge(first, second, noise)
        pairs.append(Pair(first, second, judged))
    pairs.sort(key=lambda pair: pair.verdict.ratio)
    alone = tuple(sum(key not in shared for key in side) for side in sides)
    return Comparison(a, b, tuple(pairs), (alone[0], alone[1]), several)


def describe(found: Comparison) -> str:
    """A line for each pair, then what they come to. No newline at the end."""
    unit, scale = unit_of(min(pair.a.median_ns for pair in found.pairs))
    times = f"A, {unit}", f"B, {unit}"
    rows = [("A is", "ratio A/B", "95% interval", *times, "runs", "cell of A", "rows of A and B")]
    for pair in found.pairs:
        judged = pair.verdict
        rows.append(
            (
                judged.word + (f" ({judged.reason})" if judged.reason else ""),
                f"{judged.ratio:.3f}",
                interval_text(judged.low, judged.high),
                f"{pair.a.median_ns / scale:.3f}",
                f"{pair.b.median_ns / scale:.3f}",
                f"{pair.a.runs}, {pair.b.runs}",
                pair.a.name,
                f"{' '.join(pair.a.ids)} | {' '.join(pair.b.ids)}",
            )
        )
    words = Counter(pair.verdict.word for pair in found.pairs)
    total = ", ".join(f"{words[word]} {word}" for word in (verdict.FASTER, verdict.SLOWER, verdict.UNDECIDED))
    notes = [f"A: {found.a}", f"B: {found.b}", f"{count(len(found.pairs), 'pair')}: A is {total}"]
    low, ratio, high = mean_ratio(found.pairs)
    if len(found.pairs) > 1:
        interval = interval_text(low, high)
        notes.append(f"geometric mean of the ratios: {ratio:.3f} ({interval} over processes, of these cells)")
    if any(found.alone):
        notes.append(f"without a partner: {found.alone[0]} of A, {found.alone[1]} of B")
    if found.several:
        notes.append(
            f"left out, several lines on a side: {count(len(found.several), 'key')}, as {found.several[0]}"
        )
    return "\n".join([*aligned(rows), "", *notes])


def mean_ratio(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Low end, geometric mean and high end of the ratios, as `verdict.ratio_of_medians` for one.

    Of a hierarchical bootstrap over the processes of all, and a normal interval with its standard error, the
    wider. The cells are those that were asked for and no sample of others, so they are not resampled.
    """
    logs, variance = np.zeros(statistics.RESAMPLES), 0.0
    for number, pair in enumerate(pairs):
        a, b = (verdict.draw(line.processes, (number, side)) for side, line in enumerate((pair.a, pair.b)))
        logs += (a.log_draws - b.log_draws) / len(pairs)
        variance += (a.variance + b.variance) / len(pairs) ** 2
    center = float(np.mean([np.log(pair.verdict.ratio) for pair in pairs]))
    tail = (1 - statistics.CONFIDENCE) / 2
    low, high = statistics.quantiles(logs, (tail, 1 - tail))
    half = NormalDist().inv_cdf(1 - tail) * sqrt(variance)
    return exp(min(low, center - half)), exp(center), exp(max(high, center + half))


def _read(artifacts: Path, sweep: str) -> tuple[Entry, ...]:
    """Raises what is wrong with a file: an answer rests on all rows."""
    stored = store.read(artifacts, sweep)
    if stored.problems:
        raise stored.problems[0]
    return stored.rows


def _lines(artifacts: Path, side: Side, rows: Sequence[Entry]) -> list[Line]:
    """Of the rows of its sweep that a side chooses, those that are true today among these."""
    lines = lines_of(entries.latest(row for row in rows if side.holds(row)))
    if not lines:
        raise UsageError(*_nothing(artifacts, side, rows))
    return lines


def _nothing(artifacts: Path, side: Side, rows: Sequence[Entry]) -> tuple[str, str]:
    """Why a side has no lines, and what to do."""
    if not rows:
        known = ", ".join(store.sweeps(artifacts)) or "none"
        return f"sweep {side.sweep!r} has no results", f"those with results: {known}"
    for name, asked in side.columns.items():
        values = sorted({str(getattr(row, name)) for row in rows if row.is_timed})
        if not any(_matches(name, value, asked) for value in values):
            told = ", ".join(value[:12] if name in HASHED else value for value in values if value)
            return f"no row of {side.sweep} has {name}={asked}", f"there are {told or 'none'}"
    return f"no row of {side} has times", f"`invoke run --sweep {side.sweep}` makes them"


def _matches(name: str, value: str, asked: str) -> bool:
    return value.startswith(asked) if name in HASHED else fnmatchcase(value, asked)
