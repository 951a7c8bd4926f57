"""What stands in a plot of two axes: points, lines, bands, and lines to compare them with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dlas.results.charts.axes import Interval, Scale
from dlas.results.charts.labels import Segment
from dlas.results.charts.legend import SWATCH_PX, Key
from dlas.results.charts.styles import Style, marker
from dlas.results.charts.svg import ACCENT, INK, Box, element, linked, number

_CAP_PX = 2.5
_BAND, _SHADE = "#d4d4d4", "#e1ebf3"
_RULE_DASH, _SOLID = "1.5 2.5", "none"

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A point. label: words beside it if they have room; title: shown where the pointer rests."""

    x: Interval
    y: Interval
    label: str = ""
    title: str = ""
    href: str = ""


@dataclass(frozen=True)
class Series:
    """Marks of one style; they are joined, in this order, where the style has a dash.

    name: in the legend, empty for none; band: the name of the band that y's intervals are drawn as, empty for
    error bars.
    """

    name: str
    marks: tuple[Mark, ...]
    style: Style
    band: str = ""

    def points(self, x: Scale, y: Scale) -> list[Point]:
        return [(x.place(mark.x.value), y.place(mark.y.value)) for mark in self.marks]

    @property
    def has_band(self) -> bool:
        """A single point has no band, but an error bar."""
        return bool(self.band) and len(self.marks) > 1

    @property
    def legend(self) -> list[Key]:
        if not self.marks:
            return []
        (width, height), style = SWATCH_PX, self.style
        line = stroke(f"M0 {number(height / 2)}H{number(width)}", style.stroke, style.line_px, style.dash)
        shape = marker(style.shape, width / 2, height / 2, min(style.radius_px, height / 2))
        found = [Key(self.name, line + _markers(style, element("path", d=shape)))] if self.name else []
        band = element("rect", width=width, height=height, fill=_BAND)
        return [*found, *([Key(self.band, band)] if self.has_band else [])]

    def draw_band(self, x: Scale, y: Scale) -> str:
        """Between the ends of y; where there are none it is as thin as the line."""
        if not self.has_band:
            return ""
        ends = [mark.y.ends or (mark.y.value, mark.y.value) for mark in self.marks]
        at = [x.place(mark.x.value) for mark in self.marks]
        upper = [(a, y.place(high)) for a, (_, high) in zip(at, ends, strict=True)]
        lower = [(a, y.place(low)) for a, (low, _) in zip(at, ends, strict=True)]
        return element("path", d=f"{joined([*upper, *lower[::-1]])}z", fill=_BAND)

    def draw(self, x: Scale, y: Scale) -> str:
        """The line, error bars, and markers with their titles."""
        style, points = self.style, self.points(x, y)
        bars = "".join(
            _error_bars(mark, point, x, y, self.has_band)
            for mark, point in zip(self.marks, points, strict=True)
        )
        shapes = "".join(
            linked(element("path", d=marker(style.shape, *point, style.radius_px)), mark.title, mark.href)
            for mark, point in zip(self.marks, points, strict=True)
        )
        line = stroke(joined(points), style.stroke, style.line_px, style.dash) if len(points) > 1 else ""
        return stroke(bars, style.stroke, 0.9) + line + (_markers(style, shapes) if shapes else "")

    def segments(self, x: Scale, y: Scale) -> list[Segment]:
        """Its lines and error bars."""
        found = _between(self.points(x, y)) if self.style.dash else []
        for mark, (a, b) in zip(self.marks, self.points(x, y), strict=True):
            if mark.x.ends:
                found.append((x.place(mark.x.ends[0]), b, x.place(mark.x.ends[1]), b))
            if mark.y.ends and not self.has_band:
                found.append((a, y.place(mark.y.ends[0]), a, y.place(mark.y.ends[1])))
        return found


@dataclass(frozen=True)
class Rule:
    """A line across the plot at a value of x or, where it is horizontal, of y, and its interval.

    An end of it at infinity is the plot's edge. text: at the line if it has room; name: in the legend.
    """

    at: Interval
    is_horizontal: bool = False
    text: str = ""
    name: str = ""
    title: str = ""

    @property
    def legend(self) -> list[Key]:
        line = stroke(f"M0 {number(SWATCH_PX[1] / 2)}H{number(SWATCH_PX[0])}", INK, 1, _RULE_DASH)
        return [Key(self.name, line)] if self.name else []

    def span(self, scale: Scale) -> Point:
        """Smallest and largest px of its line and interval."""
        ends = [end for end in (self.at.low, self.at.value, self.at.high) if end is not None]
        return min(map(scale.place, ends)), max(map(scale.place, ends))

    def segment(self, scale: Scale, plot: Box) -> Segment:
        at = scale.place(self.at.value)
        return (plot.left, at, plot.right, at) if self.is_horizontal else (at, plot.top, at, plot.bottom)

    def draw_interval(self, scale: Scale, plot: Box) -> str:
        first, last = self.span(scale)
        if last <= first:
            return ""
        x, y = (plot.left, first) if self.is_horizontal else (first, plot.top)
        across = plot.width if self.is_horizontal else last - first
        return element(
            "rect",
            x=x,
            y=y,
            width=across,
            height=last - first if self.is_horizontal else plot.height,
            fill=_SHADE,
        )

    def draw(self, scale: Scale, plot: Box) -> str:
        x1, y1, x2, y2 = map(number, self.segment(scale, plot))
        return linked(stroke(f"M{x1} {y1}L{x2} {y2}", INK, 1, _RULE_DASH), self.title, "")


@dataclass(frozen=True)
class Front:
    """Steps: from each point along x to the next, then along y. So the best in x comes first."""

    points: tuple[Point, ...]
    name: str = "Pareto front"

    @property
    def legend(self) -> list[Key]:
        width, height = SWATCH_PX
        return [Key(self.name, _steps(f"M0 1H{number(width / 2)}V{number(height - 1)}H{number(width)}"))]

    def corners(self, x: Scale, y: Scale) -> list[Point]:
        steps = [(x.place(a), y.place(b)) for a, b in self.points]
        return [corner for a, b in pairwise(steps) for corner in (a, (b[0], a[1]))] + steps[-1:]

    def segments(self, x: Scale, y: Scale) -> list[Segment]:
        return _between(self.corners(x, y))

    def draw(self, x: Scale, y: Scale) -> str:
        return _steps(joined(self.corners(x, y)))


def stroke(data: str, color: str, width_px: float, dash: str = _SOLID) -> str:
    """The path along data; empty without data or dash."""
    if not data or not dash:
        return ""
    dash = "" if dash == _SOLID else dash
    return element("path", d=data, fill="none", stroke=color, stroke_width=width_px, stroke_dasharray=dash)


def joined(points: Iterable[Point]) -> str:
    found = "L".join(f"{number(a)} {number(b)}" for a, b in points)
    return f"M{found}" if found else ""


def _between(points: Sequence[Point]) -> list[Segment]:
    return [(*a, *b) for a, b in pairwise(points)]


def _steps(data: str) -> str:
    return stroke(data, ACCENT, 1.3)


def _markers(style: Style, shapes: str) -> str:
    return element("g", shapes, fill=style.fill, stroke=style.stroke, stroke_width=style.line_px)


def _error_bars(mark: Mark, point: Point, x: Scale, y: Scale, has_band: bool) -> str:
    """With caps where the ends lie inside of the axes."""
    data, cap, (a, b) = "", number(2 * _CAP_PX), map(number, point)
    if mark.x.ends:
        low, high = map(x.place, mark.x.ends)
        data += f"M{number(low)} {b}H{number(high)}"
        for end in map(number, x.shown(mark.x.ends)):
            data += f"M{end} {number(point[1] - _CAP_PX)}v{cap}"
    if mark.y.ends and not has_band:
        low, high = map(y.place, mark.y.ends)
        data += f"M{a} {number(low)}V{number(high)}"
        for end in map(number, y.shown(mark.y.ends)):
            data += f"M{number(point[0] - _CAP_PX)} {end}h{cap}"
    return data
