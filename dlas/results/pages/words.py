"""How numbers of lines read in a report."""

from __future__ import annotations

from math import isfinite

from dlas.results.accuracy import Verdict as AccuracyVerdict
from dlas.results.charts.axes import Interval
from dlas.results.lines import Line
from dlas.results.statistics import Summary
from dlas.results.tables import NONE, interval_text, unit_of
from dlas.results.verdict import Verdict

FEW = "*"  # behind an interval of too few processes


def time(summary: Summary, unit_ns: float = 0.0) -> str:
    """As in `1.234 ms (1.230 .. 1.241)`, in this unit or in its own."""
    unit, scale = unit_of(unit_ns or summary.median_ns)
    text = f"{summary.median_ns / scale:.3f} {unit}"
    if not isfinite(summary.high_ns):
        return text
    mark = "" if summary.covers_processes else FEW
    return f"{text} ({interval_text(summary.low_ns / scale, summary.high_ns / scale)}{mark})"


def speedup(verdict: Verdict) -> str:
    """Of b's time over a's, from a verdict of a against b: above 1 where a is faster."""
    if not isfinite(verdict.high) or verdict.low <= 0:
        return f"{1 / verdict.ratio:.2f}x"
    return f"{1 / verdict.ratio:.2f}x ({interval_text(1 / verdict.high, 1 / verdict.low, 2)})"


def difference(found: AccuracyVerdict | None) -> str:
    """Of accuracy, in points, as in `-0.28 (-1.21 .. 0.52)`."""
    if found is None:
        return NONE
    by = found.difference
    mark = "" if by.is_paired else ", unpaired"
    return f"{100 * by.fraction:+.2f} ({interval_text(100 * by.low, 100 * by.high, 2)}{mark})"


def size(line: Line) -> str:
    """Of its weights."""
    weight_bytes = line.first.weight_bytes
    return NONE if weight_bytes is None else f"{weight_bytes / 1024:,.0f} KiB"


def time_interval(summary: Summary, scale: float) -> Interval:
    """For a chart, in units of so many nanoseconds."""
    return Interval(summary.median_ns / scale, summary.low_ns / scale, summary.high_ns / scale)
