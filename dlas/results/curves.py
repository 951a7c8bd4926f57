"""Accuracy against compression: a table and a plot of what each level of pruning costs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlas.cache import atomic_write
from dlas.results.statistics import proportion_interval
from dlas.values import LevelPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEADINGS = ("level", "zero weights", "validation top-1", "lost", "test top-1")
_PANEL_INCHES = (3.5, 2.1)
_BORDER_INCHES = 0.4  # for the axis label below all panels
_LEGEND_INCHES = 0.8  # for all its lines below each other
# Told apart by markers and line styles: prints have no colours.
_VAL: dict[str, Any] = {"color": "black", "linestyle": "-", "marker": "o", "markersize": 3, "linewidth": 1.2}
_TEST: dict[str, Any] = {
    "color": "0.35",
    "linestyle": "--",
    "linewidth": 0.9,
    "marker": "s",
    "markersize": 4.5,
    "markerfacecolor": "none",
    "elinewidth": 0.7,
    "capsize": 2,
}
_BAND: dict[str, Any] = {"color": "0.85", "linewidth": 0}
_ELBOW: dict[str, Any] = {"color": "black", "marker": "D", "markersize": 9, "markerfacecolor": "none"}
_LEAST: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 0.8}


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
    """Write an SVG with a panel for each curve: networks from top to bottom, techniques side by side.

    The same curves give the same bytes. Replaces an older file, whole or not at all. Raises ValueError
    without a curve, StorageError.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("there is no curve to plot")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not those of the user's matplotlibrc
        matplotlib.rcParams.update({"svg.hashsalt": "dlas", "font.size": 8, "axes.titlesize": 8})
        figure = Figure(layout="constrained")
        _fill(figure, curves)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    atomic_write(path, drawn.getvalue())


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


def _fill(figure: Figure, curves: Sequence[Curve]) -> None:
    """Give a figure its size, panels and legend."""
    rows = list(dict.fromkeys((curve.dataset, curve.network) for curve in curves))
    columns = list(dict.fromkeys(curve.technique for curve in curves))
    (width, height), border = _PANEL_INCHES, _BORDER_INCHES + _LEGEND_INCHES / len(columns)
    figure.set_size_inches(width * len(columns), height * len(rows) + border)
    panels = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat:
        panel.set_visible(False)
    lowest = min([_draw(panels[_place(curve, rows, columns)], curve) for curve in curves])
    _label(panels, lowest)
    figure.supxlabel("level of compression (% of the weights or channels)", fontsize=8)
    figure.supylabel("top-1 (%)", fontsize=8)
    legend: dict[str, Any] = {}
    for panel in panels.flat:
        handles, names = panel.get_legend_handles_labels()
        legend |= dict(zip(names, handles, strict=True))
    figure.legend(
        legend.values(), legend.keys(), loc="outside upper center", ncols=len(columns), frameon=False
    )


def _place(curve: Curve, rows: list[tuple[str, str]], columns: list[str]) -> tuple[int, int]:
    return rows.index((curve.dataset, curve.network)), columns.index(curve.technique)


def _draw(panel: Axes, curve: Curve) -> float:
    """One curve: both splits with their intervals, the elbow, and what it needs. Returns the lowest, in %."""
    panel.set_visible(True)
    panel.set_title(curve.title)
    levels = [100 * point.level_fraction for point in curve.points]
    val, val_low, val_high = _percents([(p.val_top1_fraction, p.val_n) for p in curve.points])
    test, low, high = _percents([(p.test_top1_fraction, p.test_n) for p in curve.points])
    panel.plot(levels, val, label="validation", **_VAL)
    panel.fill_between(levels, val_low, val_high, label="its 95% interval", **_BAND)
    bars = [[abs(a - b) for a, b in zip(test, ends, strict=True)] for ends in (low, high)]
    panel.errorbar(levels, test, yerr=bars, label="test, with its 95% interval", **_TEST)
    drop = 100 * curve.max_drop_fraction
    name = f"the elbow's least: dense on validation less {drop:.4g}%"
    panel.axhline(val[0] - drop, label=name, **_LEAST)
    if curve.chosen is None:
        panel.annotate("no level holds", (0.5, 0.97), xycoords="axes fraction", ha="center", va="top")
    else:
        level, top = 100 * curve.chosen.level_fraction, 100 * curve.chosen.val_top1_fraction
        panel.plot([level], [top], label="elbow", linestyle="none", **_ELBOW)
        side = "right" if level > 80 else "left" if level < 20 else "center"
        text = f"elbow: {level:.0f}%"
        panel.annotate(text, (level, top), (0, 7), textcoords="offset points", ha=side, va="bottom")
    return min(*val_low, *low)


def _percents(shares: Sequence[tuple[float, int]]) -> tuple[list[float], list[float], list[float]]:
    """Shares of n images, and the ends of their intervals."""
    intervals = [proportion_interval(fraction, n) for fraction, n in shares]
    lows, highs = zip(*intervals, strict=True)
    fractions = [fraction for fraction, _ in shares]
    return [100 * x for x in fractions], [100 * x for x in lows], [100 * x for x in highs]


def _label(panels: Any, lowest: float) -> None:
    """Limits for all panels with room for words above, and numbers where no panel is further out."""
    low = max(0, 10 * floor(lowest / 10))
    ticks = [tick for tick in range(0, 101, 20 if low < 60 else 5) if tick >= low]
    panels[0, 0].set(xlim=(-3, 103), ylim=(low - 0.03 * (100 - low), 100 + 0.25 * (100 - low)), yticks=ticks)
    for row in panels:
        next(panel for panel in row if panel.get_visible()).tick_params(labelleft=True)
    for column in panels.T:
        [panel for panel in column if panel.get_visible()][-1].tick_params(labelbottom=True)
