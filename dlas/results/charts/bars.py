"""Horizontal bars in groups, with their intervals and what they say in words."""

from __future__ import annotations

from dataclasses import dataclass

from dlas.results.charts import axes
from dlas.results.charts.axes import Axis, Interval, Scale
from dlas.results.charts.legend import SWATCH_PX, Key
from dlas.results.charts.styles import FILLS, fill
from dlas.results.charts.svg import INK, MUTED, TEXT_PX, Box, element, linked, number, text, text_width

_ROW_PX, _BAR_PX, _CAP_PX, _GAP_PX = 19.0, 12.0, 3.0, 6.0
_BASELINE_PX = 0.36 * TEXT_PX
_BEYOND_PX = 5.0


@dataclass(frozen=True)
class Bar:
    """text: to the right of it; series: an index into `Bars.series`; title: shown where the pointer rests.

    best: what the eye should find first; dimmed: what it should pass over.
    """

    label: str
    length: Interval
    text: str = ""
    series: int = 0
    title: str = ""
    href: str = ""
    best: bool = False
    dimmed: bool = False


@dataclass(frozen=True)
class Group:
    """Bars under a heading, which may be empty."""

    heading: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Bars:
    """Groups of bars below each other. series: names of the fills; without any there is one, and no legend.

    Bars start at 0, or on a logarithmic axis at a power of ten below them. An interval that goes beyond the
    axis ends in an arrow. Raises ValueError without a bar, for a series that has no name or no fill (there
    are `styles.FILLS`), and for a value that the axis cannot show.
    """

    title: str
    axis: Axis
    groups: tuple[Group, ...]
    series: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self._bars:
            raise ValueError(f"there is no bar in {self.title!r}")
        known = range(min(max(1, len(self.series)), FILLS))
        if unknown := {bar.series for bar in self._bars} - set(known):
            raise ValueError(
                f"{self.title!r} has {len(known)} series with a fill, none with index {max(unknown)}"
            )
        self._scale(0, 1).check(bar.length.value for bar in self._bars)

    @property
    def fills(self) -> set[int]:
        return {bar.series for bar in self._bars}

    @property
    def right_px(self) -> float:
        """For words behind the longest bar."""
        return max(text_width(bar.text, TEXT_PX, bar.best) for bar in self._bars) + _GAP_PX + _BEYOND_PX + 4

    @property
    def least_width_px(self) -> float:
        return max(text_width(group.heading, TEXT_PX, bold=True) for group in self.groups)

    def left_px(self, _: float) -> float:
        return max(text_width(bar.label, TEXT_PX, bar.best) for bar in self._bars) + _GAP_PX + 2

    def bottom_px(self, width_px: float) -> float:
        return axes.bottom_margin(self.axis, width_px)

    def height_px(self, _: float) -> float:
        headings = sum(bool(group.heading) for group in self._shown)
        return (len(self._bars) + headings) * _ROW_PX + _GAP_PX

    def keys(self, ids: str) -> list[Key]:
        width, height = SWATCH_PX
        used = [(i, name) for i, name in enumerate(self.series) if i in self.fills]
        return [Key(name, _rect(0, 0, width, height, fill(i, ids))) for i, name in used]

    def draw(self, panel: Box, plot: Box, ids: str) -> str:
        scale = self._scale(plot.left, plot.right)
        drawn, y = [axes.horizontal(self.axis, scale, plot, panel)], plot.top + _GAP_PX / 2
        for group in self._shown:
            if group.heading:
                drawn.append(
                    text(panel.left, y + _ROW_PX / 2 + _BASELINE_PX, group.heading, bold=True, halo=True)
                )
                y += _ROW_PX
            for bar in group.bars:
                drawn.append(_row(bar, scale, plot, y + _ROW_PX / 2, ids))
                y += _ROW_PX
        zero = number(scale.place(0))
        drawn.append(element("path", d=f"M{zero} {number(plot.top)}V{number(plot.bottom)}", stroke=INK))
        return "".join(drawn)

    @property
    def _bars(self) -> tuple[Bar, ...]:
        return tuple(bar for group in self.groups for bar in group.bars)

    @property
    def _shown(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.bars)

    def _scale(self, start_px: float, end_px: float) -> Scale:
        values = (value for bar in self._bars for value in bar.length.values)
        return Scale(*self.axis.limits(values, from_zero=True), self.axis.is_log, start_px, end_px)


def _row(bar: Bar, scale: Scale, plot: Box, middle: float, ids: str) -> str:
    """One bar with its label, interval and words."""
    zero, end = scale.place(0), scale.place(bar.length.value)
    left, right = min(zero, end), max(zero, end)
    shape = _rect(left, middle - _BAR_PX / 2, right, middle + _BAR_PX / 2, fill(bar.series, ids), bar.best)
    whisker, reach = _whisker(bar.length, scale, middle)
    faded = element("g", shape + whisker, opacity=0.4) if bar.dimmed else shape + whisker
    color, y = MUTED if bar.dimmed else "", middle + _BASELINE_PX
    label = text(plot.left - _GAP_PX, y, bar.label, anchor="end", bold=bar.best, fill=color)
    words = text(max(right, reach) + _GAP_PX, y, bar.text, bold=bar.best, fill=color, halo=True)
    return linked(label + faded + words, bar.title, bar.href)


def _whisker(length: Interval, scale: Scale, y: float) -> tuple[str, float]:
    """An error bar, and how far to the right it reaches; beyond the axis it goes on as an arrow."""
    if length.ends is None:
        return "", scale.start_px
    low, high = map(scale.place, length.ends)
    data, reach = f"M{number(low)} {number(y)}H{number(high)}", high
    if length.ends[0] >= scale.low:
        data += _cap(low, y)
    if length.ends[1] <= scale.high:
        data += _cap(high, y)
    else:
        reach += _BEYOND_PX
        back = number(-_CAP_PX)
        data += f"H{number(reach)}m{back} {back}l{number(_CAP_PX)} {number(_CAP_PX)}l{back} {number(_CAP_PX)}"
    return _lines(data, "white", 3.2) + _lines(data, INK, 1.2), reach


def _cap(x: float, y: float) -> str:
    return f"M{number(x)} {number(y - _CAP_PX)}v{number(2 * _CAP_PX)}M{number(x)} {number(y)}"


def _lines(data: str, stroke: str, width_px: float) -> str:
    return element("path", d=data, fill="none", stroke=stroke, stroke_width=width_px)


def _rect(left: float, top: float, right: float, bottom: float, fill: str, bold: bool = False) -> str:
    return element(
        "rect",
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
        fill=fill,
        stroke=INK,
        stroke_width=1.8 if bold else 0.7,
    )
