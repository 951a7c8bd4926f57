"""Axes: from values to px, linear or logarithmic, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dlas.results.charts.svg import (
    INK,
    LINE_EMS,
    RULE,
    TEXT_PX,
    TICK_PX,
    Box,
    element,
    number,
    text,
    text_width,
    wrap,
)

_MARGIN = 0.04  # of the range, beyond the outermost value
_TICK_PX = 4.0
_GAP_PX = 12.0  # between the labels of two ticks
_LEAST_PX = 26.0  # between two ticks of a vertical axis; more on a horizontal one
_SAME = 1e-9  # a range below this share of its values is none

Tick = tuple[float, str]


@dataclass(frozen=True)
class Interval:
    """A value, and where it lies with 95% confidence. Without two finite ends no error bar is drawn.

    Raises ValueError for a value that is not finite, a NaN, and a low end above the high one.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a chart needs finite values, not {self.value}")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ValueError(f"an interval cannot go from {self.low} to {self.high}")

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both, where both are finite."""
        if self.low is None or self.high is None or not math.isfinite(self.high - self.low):
            return None
        return self.low, self.high

    @property
    def values(self) -> tuple[float, ...]:
        return self.value, *(self.ends or ())


@dataclass(frozen=True)
class Axis:
    """low, high: its limits; None where the values decide."""

    label: str = ""
    is_log: bool = False
    low: float | None = None
    high: float | None = None

    def limits(self, values: Iterable[float], from_zero: bool = False) -> tuple[float, float]:
        """What it spans: all values, with some room beyond them, or what it is told.

        from_zero: for bars; a logarithmic axis starts at a power of ten below them instead. On it, ends of
        intervals at or below 0 do not count. Raises ValueError for limits that are none.
        """
        known = [value for value in values if not self.is_log or value > 0]
        ends = _log_limits(known, from_zero) if self.is_log else _linear_limits(known, from_zero)
        low = ends[0] if self.low is None else self.low
        high = ends[1] if self.high is None else self.high
        if not low < high or not math.isfinite(high - low) or (self.is_log and low <= 0):
            raise ValueError(f"an axis cannot go from {low} to {high}" + " in logarithms" * self.is_log)
        return low, high


@dataclass(frozen=True)
class Scale:
    """From low at start_px to high at end_px."""

    low: float
    high: float
    is_log: bool
    start_px: float
    end_px: float

    def place(self, value: float) -> float:
        """In px; what lies beyond the limits is placed on the nearer one."""
        inside = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def check(self, values: Iterable[float]) -> None:
        """Raises ValueError for a value outside of the limits: it would be drawn where it is not."""
        for value in values:
            if not self.low <= value <= self.high:
                raise ValueError(
                    f"{value} lies outside of the axis, which goes from {self.low} to {self.high}"
                )

    def shown(self, values: Iterable[float]) -> list[float]:
        """In px, those inside of the limits."""
        return [self.place(value) for value in values if self.low <= value <= self.high]

    def ticks(self) -> list[Tick]:
        """As many round values as have room for their labels: 1, 2 and 5 times powers of ten."""
        found: list[Tick] = []
        for values, step in _candidates(self.low, self.high, self.is_log):
            ticks = list(zip(values, _labels(values, step), strict=True))
            found = ticks or found
            if ticks and self._have_room(ticks):
                return ticks
        return found[:1]

    def _have_room(self, ticks: Sequence[Tick]) -> bool:
        if len(ticks) < 2:
            return True
        widest = max(text_width(label, TICK_PX) for _, label in ticks)
        needed = _LEAST_PX if self.end_px < self.start_px else max(2 * _LEAST_PX, widest + _GAP_PX)
        return all(abs(self.place(b) - self.place(a)) >= needed for (a, _), (b, _) in pairwise(ticks))


def left_margin(axis: Axis, ticks: Sequence[Tick], height_px: float) -> float:
    """What a vertical axis needs beside it: its ticks with labels, and its own label on its side."""
    numbers = max((text_width(label, TICK_PX) for _, label in ticks), default=0.0)
    return numbers + _TICK_PX + 6 + len(wrap(axis.label, height_px)) * LINE_EMS * TEXT_PX + 2


def bottom_margin(axis: Axis, width_px: float) -> float:
    """What a horizontal axis needs below it."""
    return _TICK_PX + 1.5 * TICK_PX + len(wrap(axis.label, width_px)) * LINE_EMS * TEXT_PX + 2


def horizontal(axis: Axis, scale: Scale, plot: Box, panel: Box) -> str:
    """Below the plot, with grid lines in it; labels stay inside the panel."""
    ticks = scale.ticks()
    at = [number(scale.place(value)) for value, _ in ticks]
    baseline = plot.bottom + _TICK_PX + TICK_PX
    drawn = [
        _path("".join(f"M{x} {number(plot.top)}V{number(plot.bottom)}" for x in at), RULE),
        _path("".join(f"M{x} {number(plot.bottom)}v{number(_TICK_PX)}" for x in at), INK),
        _path(f"M{number(plot.left)} {number(plot.bottom)}H{number(plot.right)}", INK),
    ]
    for value, label in ticks:
        half = text_width(label, TICK_PX) / 2
        x = min(max(scale.place(value), panel.left + half), panel.right - half)
        drawn.append(text(x, baseline, label, TICK_PX, "middle"))
    middle = (plot.left + plot.right) / 2
    for i, line in enumerate(wrap(axis.label, plot.width)):
        drawn.append(text(middle, baseline + 4 + (i + 1) * LINE_EMS * TEXT_PX, line, anchor="middle"))
    return "".join(drawn)


def vertical(axis: Axis, scale: Scale, plot: Box) -> str:
    """On the left of the plot, with grid lines in it."""
    ticks = scale.ticks()
    at = [number(scale.place(value)) for value, _ in ticks]
    drawn = [
        _path("".join(f"M{number(plot.left)} {y}H{number(plot.right)}" for y in at), RULE),
        _path("".join(f"M{number(plot.left)} {y}h{number(-_TICK_PX)}" for y in at), INK),
        _path(f"M{number(plot.left)} {number(plot.top)}V{number(plot.bottom)}", INK),
    ]
    for value, label in ticks:
        drawn.append(
            text(plot.left - _TICK_PX - 3, scale.place(value) + 0.35 * TICK_PX, label, TICK_PX, "end")
        )
    left = plot.left - left_margin(axis, ticks, plot.height)
    drawn.append(sideways(axis.label, left, (plot.top + plot.bottom) / 2, plot.height))
    return "".join(drawn)


def sideways(words: str, left: float, middle: float, length_px: float) -> str:
    """Text that is read from below, its first line at left."""
    drawn = []
    for i, line in enumerate(wrap(words, length_px)):
        x = number(left + i * LINE_EMS * TEXT_PX + TEXT_PX)
        drawn.append(
            text(0, 0, line, anchor="middle", transform=f"translate({x} {number(middle)}) rotate(-90)")
        )
    return "".join(drawn)


def _path(data: str, stroke: str) -> str:
    return element("path", d=data, stroke=stroke, stroke_width=0.8, fill="none") if data else ""


def _linear_limits(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    if from_zero:
        values = [*values, 0.0]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low <= _SAME * max(abs(low), abs(high)):
        reach = abs(high) / 10 or 1.0
        return (low, high + reach) if from_zero else (low - reach, high + reach)
    margin = _MARGIN * (high - low)
    return low - margin * (not from_zero or low < 0), high + margin * (not from_zero or high > 0)


def _log_limits(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = min(values, default=1.0), max(values, default=10.0)
    margin = (high / low) ** _MARGIN if high / low > 1 + _SAME else 2.0
    return 10.0 ** math.floor(math.log10(low / 1.5)) if from_zero else low / margin, high * margin


def _candidates(low: float, high: float, is_log: bool) -> Iterator[tuple[list[float], float]]:
    """Values for ticks inside of the limits, from many to few, their distance, 0 where it grows."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) if is_log else range(0)
    fine = [value for k in decades for value in (10.0**k, 2 * 10.0**k, 5 * 10.0**k) if low <= value <= high]
    if len(fine) > 2:
        yield fine, 0
        for every in range(1, len(decades) + 1):
            yield [10.0**k for k in decades if k % every == 0 and low <= 10.0**k <= high], 0
        return
    exponent = math.floor(math.log10(high - low)) - 2
    for k in range(exponent, exponent + 4):
        for factor in (1, 2, 5):
            step = factor * 10.0**k
            first, last = math.ceil(low / step - _SAME), math.floor(high / step + _SAME)
            if last - first < 50:
                yield (
                    [
                        i * factor * 10.0**k if k >= 0 else i * factor / 10.0**-k
                        for i in range(first, last + 1)
                    ],
                    step,
                )


def _labels(values: Sequence[float], step: float) -> list[str]:
    """With as many decimals as the step needs; step 0: each with its own.

    >>> _labels([0.0, 0.5, 1.0], 0.5), _labels([0.01, 1.0, 20000.0, 1e7], 0)
    (['0.0', '0.5', '1.0'], ['0.01', '1', '20,000', '1e7'])
    """
    largest = max(map(abs, values), default=0.0)
    return [_label(value, step or value, largest if step else value) for value in values]


def _label(value: float, step: float, largest: float) -> str:
    exponent = math.floor(math.log10(step) + _SAME)
    if not largest or 1e-3 <= largest < 1e6:
        return f"{value:,.{max(0, -exponent)}f}"
    digits = max(0, math.floor(math.log10(largest)) - exponent)
    mantissa, _, power = f"{value:.{digits}e}".partition("e")
    return f"{mantissa}e{int(power)}" if value else "0"
