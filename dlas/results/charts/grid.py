"""Figures of measurements as SVG text, alone or in grids; their charts are `bars.Bars` and `plots.Plot`.

Own code instead of matplotlib: a report has hundreds of panels, and each mark carries the ids of its rows.
The same charts give the same bytes. An SVG stands alone as a file and inline in HTML, several on a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dlas.cache import digest
from dlas.results.charts import legend
from dlas.results.charts.axes import sideways
from dlas.results.charts.bars import Bars
from dlas.results.charts.legend import Key
from dlas.results.charts.plots import Plot
from dlas.results.charts.styles import patterns
from dlas.results.charts.svg import INK, LINE_EMS, TEXT_PX, TITLE_PX, Box, element, escaped, text, wrap

_EDGE_PX, _BETWEEN_PX = 6.0, 14.0
_LEAST_PLOT_PX = 140.0

Chart = Bars | Plot


@dataclass(frozen=True)
class _Layout:
    """What all panels of a grid share, in px: margins around the plots, and what stands above them."""

    width: float
    left: float
    right: float
    bottom: float
    title: float
    legend: float
    plot: float
    has_legends: bool

    @property
    def height(self) -> float:
        return self.title + self.legend + self.plot + self.bottom


def draw(chart: Chart, width_px: float = 720, plot_height_px: float = 300, desc: str = "") -> str:
    """One chart with its legend, as `grid`."""
    return grid(
        [chart], 1, chart.title, desc, width_px - 2 * _EDGE_PX, plot_height_px, has_common_legend=False
    )


def grid(
    charts: Sequence[Chart | None],
    columns: int,
    title: str,
    desc: str = "",
    panel_width_px: float = 350,
    plot_height_px: float = 170,
    x_label: str = "",
    y_label: str = "",
    has_common_legend: bool = True,
) -> str:
    """Panels of one size, row by row; None leaves a gap. They grow where their texts need it.

    title, desc: for readers who do not see the figure; plot_height_px: inside the axes, bars take what they
    need; x_label, y_label: of all panels, beside their own. Raises ValueError without a chart.
    """
    shown = [chart for chart in charts if chart is not None]
    if not shown or columns < 1:
        raise ValueError(f"there is no chart to draw in {columns} columns")
    ids = f"c{digest(repr((charts, columns, panel_width_px, plot_height_px, has_common_legend)))[:12]}"
    layout = _layout(shown, ids, panel_width_px, plot_height_px, has_common_legend)
    columns, rows = min(columns, len(charts)), -(-len(charts) // columns)
    inner = columns * (layout.width + _BETWEEN_PX) - _BETWEEN_PX
    common = legend.rows(_keys(shown, ids), inner) if has_common_legend else []
    left, top = _EDGE_PX + bool(y_label) * LINE_EMS * TEXT_PX, _EDGE_PX + legend.height_px(common)
    drawn = [
        patterns({index for chart in shown for index in chart.fills}, ids),
        legend.draw(common, left, _EDGE_PX),
    ]
    for i, chart in enumerate(charts):
        x = left + i % columns * (layout.width + _BETWEEN_PX)
        y = top + i // columns * (layout.height + _BETWEEN_PX)
        drawn += [_panel(chart, layout, x, y, ids)] if chart else []
    bottom = top + rows * (layout.height + _BETWEEN_PX) - _BETWEEN_PX
    drawn.append(sideways(y_label, _EDGE_PX - 2, (top + bottom) / 2, bottom - top))
    for line in wrap(x_label, inner):
        bottom += LINE_EMS * TEXT_PX
        drawn.append(text(left + inner / 2, bottom - 2, line, anchor="middle"))
    width = max([inner, *(legend.row_width(row) for row in common)])
    size = left + width + _EDGE_PX, bottom + _EDGE_PX
    return _document("".join(drawn), title, desc or "; ".join(chart.title for chart in shown), ids, size)


def _keys(charts: Sequence[Chart], ids: str) -> list[Key]:
    return [key for chart in charts for key in chart.keys(ids)]


def _layout(
    charts: Sequence[Chart], ids: str, width_px: float, plot_height_px: float, has_common_legend: bool
) -> _Layout:
    plot = max(chart.height_px(plot_height_px) for chart in charts)
    left = max(chart.left_px(plot) for chart in charts)
    right = max(chart.right_px for chart in charts)
    keys = [] if has_common_legend else _keys(charts, ids)
    least = max(chart.least_width_px for chart in charts)
    width = max([width_px, left + _LEAST_PLOT_PX + right, least, *(key.width_px for key in keys)])
    titles = max(len(_title_lines(chart, width)) for chart in charts)
    legends = [] if has_common_legend else [legend.rows(chart.keys(ids), width) for chart in charts]
    return _Layout(
        width=width,
        left=left,
        right=right,
        bottom=max(chart.bottom_px(width - left - right) for chart in charts),
        title=titles * LINE_EMS * TITLE_PX + 6 * bool(titles),
        legend=max(map(legend.height_px, legends), default=0.0),
        plot=plot,
        has_legends=not has_common_legend,
    )


def _panel(chart: Chart, layout: _Layout, left: float, top: float, ids: str) -> str:
    drawn = [
        text(left, top + (i + 0.85) * LINE_EMS * TITLE_PX, line, TITLE_PX, bold=True)
        for i, line in enumerate(_title_lines(chart, layout.width))
    ]
    if layout.has_legends:
        drawn.append(legend.draw(legend.rows(chart.keys(ids), layout.width), left, top + layout.title))
    start = top + layout.title + layout.legend
    plot = Box(left + layout.left, start, left + layout.width - layout.right, start + layout.plot)
    panel = Box(left, top, left + layout.width, top + layout.height)
    return "".join(drawn) + chart.draw(panel, plot, ids)


def _title_lines(chart: Chart, width_px: float) -> list[str]:
    return wrap(chart.title, width_px, TITLE_PX, bold=True)


def _document(content: str, title: str, desc: str, ids: str, size: tuple[float, float]) -> str:
    width, height = map(math.ceil, size)
    named = f'<title id="{ids}-t">{escaped(title)}</title><desc id="{ids}-d">{escaped(desc)}</desc>'
    return element(
        "svg",
        named + element("rect", width=width, height=height, fill="white") + content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{ids}-t {ids}-d",
        font_family="sans-serif",
        font_size=TEXT_PX,
        fill=INK,
        style="max-width:100%;height:auto",
    )
