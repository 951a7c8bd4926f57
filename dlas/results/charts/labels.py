"""Where texts go in a plot: beside their points, never on each other, and rather nowhere than on a marker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlas.results.charts.svg import LINE_EMS, TICK_PX, Box, text, text_width

_GAP_PX = 2.0

Segment = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """Words, and the boxes that they may take, the best first."""

    words: str
    places: tuple[Box, ...]


def around(words: str, x: float, y: float, reach_px: float) -> Label:
    """A label beside the marker at x, y, which reaches so far."""
    width, height = _size(words)
    far, near = reach_px + _GAP_PX, reach_px
    places = [
        *((x + far, y - height / 2), (x - far - width, y - height / 2)),
        *((x - width / 2, y - far - height), (x - width / 2, y + far)),
        *((x + near, y - near - height), (x - near - width, y - near - height)),
        *((x + near, y + near), (x - near - width, y + near)),
        *((x - 0.8 * width, y - far - height), (x - 0.2 * width, y - far - height)),
        *((x - 0.8 * width, y + far), (x - 0.2 * width, y + far)),
    ]
    return Label(words, tuple(Box(left, top, left + width, top + height) for left, top in places))


def beside(words: str, left: float, right: float, plot: Box) -> Label:
    """A label of what spans these px from top to bottom: in its middle if there is room, or next to it."""
    width, height = _size(words)
    middle = (left + right - width) / 2
    lefts = [*([middle] if width < right - left else []), right + _GAP_PX, left - _GAP_PX - width]
    tops = [plot.top + i * height for i in range(int(plot.height / height))]
    return Label(words, tuple(Box(x, y, x + width, y + height) for y in tops for x in lefts))


def along(words: str, top: float, bottom: float, plot: Box) -> Label:
    """A label of what spans these px from left to right: above it if there is room, or below it."""
    width, height = _size(words)
    lefts = [
        plot.left + _GAP_PX + share * (plot.width - width - 2 * _GAP_PX) for share in (1, 0, 0.5, 0.75, 0.25)
    ]
    tops = [top - height, bottom + 1]
    return Label(words, tuple(Box(x, y, x + width, y + height) for x in lefts for y in tops))


def inside_top(words: str, plot: Box) -> Label:
    """A label in the middle of the plot's upper edge, or below it."""
    width, height = _size(words)
    left = (plot.left + plot.right - width) / 2
    tops = [plot.top + (i + 0.3) * height for i in range(int(plot.height / height))]
    return Label(words, tuple(Box(left, top, left + width, top + height) for top in tops))


def place(
    labels: Iterable[Label], inside: Box, obstacles: Sequence[Box], lines: Sequence[Segment]
) -> list[tuple[str, Box]]:
    """The labels that find a place: each in turn takes one that is free of obstacles and of labels.

    Among these it takes the first on the fewest lines. A label without any place is left out.
    """
    placed: list[tuple[str, Box]] = []
    for label in labels:
        free = [
            box
            for box in label.places
            if inside.holds(box)
            and not any(map(box.overlaps, obstacles))
            and not any(box.overlaps(other) for _, other in placed)
        ]
        if free:
            crossed = [sum(_crosses(line, box) for line in lines) for box in free]
            placed.append((label.words, free[crossed.index(min(crossed))]))
    return placed


def drawn(placed: Iterable[tuple[str, Box]]) -> str:
    return "".join(
        text(box.left, box.bottom - 0.3 * TICK_PX, words, TICK_PX, halo=True) for words, box in placed
    )


def _size(words: str) -> tuple[float, float]:
    return text_width(words, TICK_PX), LINE_EMS * TICK_PX


def _crosses(line: Segment, box: Box) -> bool:
    """Whether a straight line enters a box (Liang and Barsky 1984)."""
    x1, y1, x2, y2 = line
    if max(x1, x2) < box.left or min(x1, x2) > box.right or max(y1, y2) < box.top or min(y1, y2) > box.bottom:
        return False
    enters, leaves = 0.0, 1.0
    for step, room in (
        (x1 - x2, x1 - box.left),
        (x2 - x1, box.right - x1),
        (y1 - y2, y1 - box.top),
        (y2 - y1, box.bottom - y1),
    ):
        if step < 0:
            enters = max(enters, room / step)
        elif step > 0:
            leaves = min(leaves, room / step)
    return enters <= leaves
