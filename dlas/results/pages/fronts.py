"""Accuracy against time and size: what can be had for what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from dlas.results import statistics
from dlas.results.charts import grid
from dlas.results.charts.axes import Axis, Interval
from dlas.results.charts.marks import Front, Mark, Series
from dlas.results.charts.plots import Plot
from dlas.results.charts.styles import STYLES, point_style
from dlas.results.lines import Line, grouped
from dlas.results.pages import words
from dlas.results.pages.page import Chapter, Figure, Part, Text, href, title_of
from dlas.results.places import Section
from dlas.results.tables import unit_of

_POINTS = 400  # in one plot, beside the front
_KIB = 1024
_OTHERS = "other networks"

Cost = Callable[[Line], float]


def chapter(sections: Sequence[Section]) -> Chapter:
    parts: list[Part] = [
        Text(
            "Each point is a network with a compression and a precision, in its fastest algorithm, format "
            "and "
            "schedule. Bars are 95% intervals: of the median over processes, and of the share of right "
            "images "
            "(Wilson). On the front, nothing is both faster (or smaller) and more accurate, as far as "
            "medians "
            "and shares go."
        )
    ]
    for section in sections:
        for lines in grouped(section.timed, lambda line: line.first.dataset):
            judged = [line for line in _fastest(lines) if line.top1_fraction is not None]
            if judged:
                parts.append(_figure(section, judged))
    if len(parts) == 1:
        parts.append(Text("No row of this sweep has an accuracy."))
    return Chapter("Accuracy against time and size", tuple(parts))


def front_of(lines: Iterable[Line], cost: Cost) -> list[Line]:
    """Of lines with an accuracy, those that no other beats at the same cost or less, cheapest first."""
    found: list[Line] = []
    for line in sorted(lines, key=lambda line: (cost(line), -(line.top1_fraction or 0.0))):
        if (line.top1_fraction or 0.0) > max((each.top1_fraction or 0.0 for each in found), default=-inf):
            found.append(line)
    return found


def weight_kib(line: Line) -> float:
    return (line.first.weight_bytes or 0) / _KIB


def _fastest(lines: Iterable[Line]) -> list[Line]:
    groups = grouped(lines, lambda line: (line.first.model, line.first.compression, line.first.precision))
    return [min(group, key=lambda line: line.median_ns) for group in groups]


def _figure(section: Section, lines: Sequence[Line]) -> Figure:
    dataset = lines[0].first.dataset
    unit, scale = unit_of(min(line.median_ns for line in lines))
    sized = [line for line in lines if line.first.weight_bytes]
    panels = [
        _plot(
            "against time",
            Axis(f"median time, {unit}", is_log=True),
            lines,
            lambda line: line.median_ns / scale,
        ),
        _plot("against size", Axis("weights, KiB", is_log=True), sized, weight_kib) if sized else None,
    ]
    title = f"Accuracy on {dataset}, {section.short_title}"
    svg = grid.grid(panels, 2, title, panel_width_px=440, plot_height_px=300, y_label="top-1, %")
    return Figure(f"front-{section.first.target}-{section.first.device[:8]}-{dataset}", svg, f"{title}.")


def _plot(title: str, x: Axis, lines: Sequence[Line], cost: Cost) -> Plot:
    front = front_of(lines, cost)
    others = sorted((line for line in lines if line not in front), key=cost)[:_POINTS]
    shown = [*front, *others]
    names = sorted({line.first.model for line in lines})
    named = names if len(names) <= STYLES else names[: STYLES - 1]
    groups = {name: [line for line in shown if line.first.model == name] for name in named}
    groups[_OTHERS] = [line for line in shown if line.first.model not in named]
    series = [
        Series(name, tuple(_mark(line, cost, line in front) for line in group), point_style(index))
        for index, (name, group) in enumerate(groups.items())
        if group
    ]
    points = tuple((cost(line), 100 * (line.top1_fraction or 0.0)) for line in reversed(front))
    return Plot(title, x, Axis(), tuple(series), front=Front(points))


def _mark(line: Line, cost: Cost, is_labelled: bool) -> Mark:
    row = line.judged
    assert row is not None
    assert row.top1_fraction is not None
    assert row.top1_n
    low, high = statistics.proportion_interval(row.top1_fraction, row.top1_n)
    summary, x = line.summary, cost(line)
    is_time = cost is not weight_kib
    factor = x / summary.median_ns
    ends = (summary.low_ns * factor, summary.high_ns * factor) if is_time else (None, None)
    return Mark(
        Interval(x, *ends),
        Interval(100 * row.top1_fraction, 100 * low, 100 * high),
        f"{line.first.compression} {line.first.precision}" if is_labelled else "",
        title_of(line.ids, f"{line.name}: {words.time(summary)}, top-1 {line.accuracy}, {words.size(line)}"),
        href(line.ids),
    )
