"""Accuracy against compression: a table and a plot of what each level of pruning costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path

from dlas.cache import atomic_write
from dlas.results.charts import grid
from dlas.results.charts.axes import Axis, Interval
from dlas.results.charts.marks import Mark, Rule, Series
from dlas.results.charts.plots import Plot
from dlas.results.charts.styles import RING, Style
from dlas.results.charts.svg import MUTED
from dlas.results.statistics import proportion_interval
from dlas.values import LevelPoint

_HEADINGS = ("level", "zero weights", "validation top-1", "lost", "test top-1")
_PANEL_PX = 350.0
_PLOT_PX = 150.0
_VAL = Style(shape="circle", dash="none", radius_px=2.5)
_TEST = Style(shape="square", fill="none", stroke=MUTED, dash="5 3", radius_px=3, line_px=1)


@dataclass(frozen=True)
class Curve:
    """The levels of one network and technique, rising from the dense network, and the one that was chosen.

    chosen: the elbow; None where the first level already loses more than max_drop_fraction.
    """

    network: str
    dataset: str
    technique: str
    points: tuple[LevelPoint, ...]
    chosen: LevelPoint | None
    max_drop_fraction: float

    @property
    def title(self) -> str:
        return f"{self.network} on {self.dataset}, {self.technique} pruning"


def to_table(curves: Iterable[Curve]) -> str:
    """A block for each curve: its levels with 95% intervals, the elbow marked. No newline at the end.

    `lost` counts the validation images that the dense network gets right beyond the level: on these
    alone the elbow is chosen.
    """
    return "\n\n".join("\n".join(_block(curve)) for curve in curves)


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Write `to_svg` of the curves. Replaces an older file, whole or not at all.

    Raises ValueError without a curve, StorageError.
    """
    atomic_write(path, to_svg(curves).encode())


def to_svg(curves: Sequence[Curve]) -> str:
    """A figure with a panel for each curve: networks from top to bottom, techniques side by side.

    The same curves give the same text. Raises ValueError without a curve.
    """
    if not curves:
        raise ValueError("there is no curve to plot")
    rows = dict.fromkeys((curve.dataset, curve.network) for curve in curves)
    columns = dict.fromkeys(curve.technique for curve in curves)
    low = max(0, 10 * floor(min(map(_lowest, curves)) / 10))
    panels = {(curve.dataset, curve.network, curve.technique): _panel(curve, low) for curve in curves}
    return grid.grid(
        [panels.get((*row, column)) for row in rows for column in columns],
        len(columns),
        "Accuracy against compression",
        panel_width_px=_PANEL_PX,
        plot_height_px=_PLOT_PX,
        x_label="level of compression (% of the weights or channels)",
        y_label="top-1 (%)",
    )


def fields(curve: Curve) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The headings and rows of a table of its levels."""
    return _HEADINGS, [_fields(curve, point) for point in curve.points]


def _block(curve: Curve) -> list[str]:
    lines = [_HEADINGS, *(_fields(curve, point) for point in curve.points)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    marks = ["", *(_mark(curve, point) for point in curve.points)]
    padded = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    none = "" if curve.chosen else "; no level holds"
    drop = f"{100 * curve.max_drop_fraction:.4g}%"
    title = f"{curve.title}: the elbow may lose {drop} of the validation images{none}"
    return [title, *(f"  {line}  {mark}".rstrip() for line, mark in zip(padded, marks, strict=True))]


def _fields(curve: Curve, point: LevelPoint) -> tuple[str, ...]:
    dense = curve.points[0]
    lost = round(dense.val_top1_fraction * dense.val_n) - round(point.val_top1_fraction * point.val_n)
    return (
        f"{point.level_fraction:.0%}",
        f"{point.pruned_fraction:.1%}",
        _share(point.val_top1_fraction, point.val_n),
        str(lost),
        _share(point.test_top1_fraction, point.test_n),
    )


def _mark(curve: Curve, point: LevelPoint) -> str:
    if point == curve.points[0]:
        return "dense"
    return "<- elbow" if point == curve.chosen else ""


def _share(fraction: float, n: int) -> str:
    low, high = proportion_interval(fraction, n)
    return f"{fraction:.1%} ({low:.1%} .. {high:.1%}) of {n}"


def _panel(curve: Curve, low: float) -> Plot:
    """Both splits with their intervals, the elbow, and what it needs. low: the end of all panels, in %."""
    val = _series(curve, "validation", "its 95% interval")
    test = _series(curve, "test, with its 95% interval")
    chosen = [mark for mark, point in zip(val.marks, curve.points, strict=True) if point == curve.chosen]
    elbow = tuple(Mark(mark.x, mark.y, f"elbow: {mark.x.value:.0f}%", mark.title) for mark in chosen[:1])
    name = f"the elbow's least: dense on validation less {100 * curve.max_drop_fraction:.4g}%"
    return Plot(
        curve.title,
        Axis(low=-3, high=103),
        Axis(low=low - 0.03 * (100 - low), high=100 + 0.08 * (100 - low)),
        (val, test, Series("elbow", elbow, RING)),
        rules=(Rule(Interval(_least(curve)), is_horizontal=True, name=name),),
        note="" if chosen else "no level holds",
    )


def _series(curve: Curve, name: str, band: str = "") -> Series:
    """The points of validation, which has a band, or of test."""
    marks = []
    for point in curve.points:
        fraction, n = (
            (point.val_top1_fraction, point.val_n) if band else (point.test_top1_fraction, point.test_n)
        )
        title = f"{name.partition(',')[0]} at {point.level_fraction:.0%}: {_share(fraction, n)}"
        marks.append(Mark(Interval(100 * point.level_fraction), _percent(fraction, n), title=title))
    return Series(name, tuple(marks), _VAL if band else _TEST, band)


def _percent(fraction: float, n: int) -> Interval:
    low, high = proportion_interval(fraction, n)
    return Interval(100 * fraction, 100 * low, 100 * high)


def _least(curve: Curve) -> float:
    """What the elbow may not fall below, in % of the validation images."""
    return max(0.0, 100 * (curve.points[0].val_top1_fraction - curve.max_drop_fraction))


def _lowest(curve: Curve) -> float:
    """Of all that its panel shows, in %."""
    shares = [
        share
        for p in curve.points
        for share in ((p.val_top1_fraction, p.val_n), (p.test_top1_fraction, p.test_n))
    ]
    return min(_least(curve), *(100 * proportion_interval(*share)[0] for share in shares))
