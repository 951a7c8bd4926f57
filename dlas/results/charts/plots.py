"""Points and lines over two axes: Pareto fronts, and what changes with a level."""

from __future__ import annotations

from dataclasses import dataclass

from dlas.results.charts import axes, labels
from dlas.results.charts.axes import Axis, Interval, Scale
from dlas.results.charts.legend import Key
from dlas.results.charts.marks import Front, Mark, Rule, Series
from dlas.results.charts.svg import Box

_RIGHT_PX = 14.0


@dataclass(frozen=True)
class Plot:
    """Series over two axes. note: words at the top of the plot, left out where they have no room.

    Raises ValueError without a mark, and for a value that an axis cannot show; intervals are cut off there.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    front: Front | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self._marks:
            raise ValueError(f"there is no mark in {self.title!r}")
        x, y = self._scales(Box(0, 0, 1, 1))
        x.check(interval.value for interval in self._along(False))
        y.check(interval.value for interval in self._along(True))

    @property
    def fills(self) -> set[int]:
        return set()

    @property
    def right_px(self) -> float:
        return _RIGHT_PX

    @property
    def least_width_px(self) -> float:
        return 0.0

    def left_px(self, height_px: float) -> float:
        ticks = self._scales(Box(0, 0, 1, height_px))[1].ticks()
        return axes.left_margin(self.y, ticks, height_px)

    def bottom_px(self, width_px: float) -> float:
        return axes.bottom_margin(self.x, width_px)

    def height_px(self, asked_px: float) -> float:
        return asked_px

    def keys(self, _: str) -> list[Key]:
        front = self.front.legend if self.front else []
        series = [key for series in self.series for key in series.legend]
        return [*series, *front, *(key for rule in self.rules for key in rule.legend)]

    def draw(self, panel: Box, plot: Box, _: str) -> str:
        x, y = self._scales(plot)
        across = [(rule, y if rule.is_horizontal else x) for rule in self.rules]
        return "".join(
            [
                *(rule.draw_interval(scale, plot) for rule, scale in across),
                *(series.draw_band(x, y) for series in self.series),
                axes.horizontal(self.x, x, plot, panel),
                axes.vertical(self.y, y, plot),
                *(rule.draw(scale, plot) for rule, scale in across),
                self.front.draw(x, y) if self.front else "",
                *(series.draw(x, y) for series in self.series),
                labels.drawn(self._placed(x, y, plot)),
            ]
        )

    def _placed(self, x: Scale, y: Scale, plot: Box) -> list[tuple[str, Box]]:
        wanted = [labels.inside_top(self.note, plot)] if self.note else []
        lines = self.front.segments(x, y) if self.front else []
        obstacles = []
        for rule in self.rules:
            scale = y if rule.is_horizontal else x
            lines.append(rule.segment(scale, plot))
            if rule.text:
                beside = labels.along if rule.is_horizontal else labels.beside
                wanted.append(beside(rule.text, *rule.span(scale), plot))
        for series in self.series:
            reach = series.style.reach_px
            lines += series.segments(x, y)
            for mark, (a, b) in zip(series.marks, series.points(x, y), strict=True):
                obstacles.append(Box(a - reach, b - reach, a + reach, b + reach))
                wanted += [labels.around(mark.label, a, b, reach)] if mark.label else []
        return labels.place(wanted, plot, obstacles, lines)

    @property
    def _marks(self) -> list[Mark]:
        return [mark for series in self.series for mark in series.marks]

    def _along(self, is_horizontal: bool) -> list[Interval]:
        """All that lies on y, where is_horizontal, or on x."""
        steps = self.front.points if self.front else ()
        return [
            *(mark.y if is_horizontal else mark.x for mark in self._marks),
            *(rule.at for rule in self.rules if rule.is_horizontal == is_horizontal),
            *(Interval(step[is_horizontal]) for step in steps),
        ]

    def _scales(self, plot: Box) -> tuple[Scale, Scale]:
        x = self.x.limits(value for interval in self._along(False) for value in interval.values)
        y = self.y.limits(value for interval in self._along(True) for value in interval.values)
        return Scale(*x, self.x.is_log, plot.left, plot.right), Scale(
            *y, self.y.is_log, plot.bottom, plot.top
        )
