"""How series are told apart without colour: fills of bars, shapes of markers, dashes of lines.

Greys and one blue, so that prints in black and white and readers who see no colours lose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dlas.results.charts.svg import ACCENT, INK, MUTED, element, number

_LINE = '<path d="M0 {0}H6" stroke="{1}" stroke-width="{2}"/>'
_DOTS = f'<circle cx="1.2" cy="1.2" r="1.1" fill="{INK}"/><circle cx="3.7" cy="3.7" r="1.1" fill="{INK}"/>'
_CROSS = '<path d="M0 2.5H5M2.5 0V5" stroke="{0}" stroke-width="{1}"/>'
# A colour, or a pattern: width and height of its tile in px, its rotation in degrees, its drawing.
_FILLS: tuple[str | tuple[float, float, int, str], ...] = (
    ACCENT,
    "#ffffff",
    (6, 4, -45, _LINE.format(2, ACCENT, 1.5)),
    "#c4c4c4",
    (5, 5, 0, _DOTS),
    (6, 6, 45, _LINE.format(3, MUTED, 3)),
    (6, 3, 90, _LINE.format(1.5, INK, 0.9)),
    (5, 5, 45, _CROSS.format(ACCENT, 1.1)),
    (6, 4, 0, _LINE.format(2, INK, 1.6)),
    (5, 5, 0, _CROSS.format(MUTED, 1.6)),
)
FILLS = len(_FILLS)
_DASHES = ("none", "6 3", "1.5 2.5", "9 3 2 3", "3 2", "12 4")


def _star(count: int, first_degrees: float, *radii: float) -> tuple[tuple[float, float], ...]:
    """Corners around the origin, with these radii in turn."""
    turns = [math.radians(first_degrees + 360 * i / count) for i in range(count)]
    return tuple(
        (radii[i % len(radii)] * math.cos(turn), radii[i % len(radii)] * math.sin(turn))
        for i, turn in enumerate(turns)
    )


def _turned(corners: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """By 45 degrees."""
    half = math.sqrt(0.5)
    return tuple((half * (x - y), half * (x + y)) for x, y in corners)


_PLUS = (
    *((-0.35, -1.15), (0.35, -1.15), (0.35, -0.35), (1.15, -0.35), (1.15, 0.35), (0.35, 0.35)),
    *((0.35, 1.15), (-0.35, 1.15), (-0.35, 0.35), (-1.15, 0.35), (-1.15, -0.35), (-0.35, -0.35)),
)
# Corners for a marker of radius 1; about the same area each. The circle has none.
_SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "square": _star(4, 45, 1.25),
    "triangle": _star(3, -90, 1.35),
    "diamond": _star(4, 0, 1.35),
    "wedge": _star(3, 90, 1.35),
    "plus": _PLUS,
    "cross": _turned(_PLUS),
    "star": _star(10, -90, 1.5, 0.65),
}
SHAPES = tuple(_SHAPES)
STYLES = 2 * len(SHAPES)
_REACH = 1.5  # of the widest shape, in radii


@dataclass(frozen=True)
class Style:
    """Of a series of points. shape: one of SHAPES; dash: of the line that joins them as in SVG's
    stroke-dasharray, "none" for a solid one, empty for no line."""

    shape: str = "circle"
    fill: str = INK
    stroke: str = INK
    dash: str = ""
    radius_px: float = 3.5
    line_px: float = 1.2

    @property
    def reach_px(self) -> float:
        """From the point to the farthest edge of its marker."""
        return self.radius_px * _REACH


RING = Style(shape="diamond", fill="none", radius_px=6, line_px=1.4)  # around the point that was chosen


def point_style(index: int) -> Style:
    """Of the index-th series of points: no two of STYLES are alike. Raises ValueError beyond."""
    if not 0 <= index < STYLES:
        raise ValueError(f"there are {STYLES} styles of points, none with index {index}")
    shape = SHAPES[index % len(SHAPES)]
    is_filled = index % 2 == index // len(SHAPES)
    color = (ACCENT, INK, MUTED)[index % 3]
    return Style(shape, color if is_filled else "white", color)


def line_style(index: int) -> Style:
    """Of the index-th series of joined points: as `point_style`, with dashes. Raises ValueError beyond."""
    return replace(point_style(index), dash=_DASHES[index % len(_DASHES)], radius_px=3)


def marker(shape: str, x: float, y: float, radius_px: float) -> str:
    """The data of a path around x, y."""
    corners = _SHAPES[shape]
    if not corners:
        half = f"a{number(radius_px)} {number(radius_px)} 0 1 0 "
        wide = number(2 * radius_px)
        return f"M{number(x - radius_px)} {number(y)}{half}{wide} 0{half}-{wide} 0z"
    return f"M{'L'.join(f'{number(x + radius_px * cx)} {number(y + radius_px * cy)}' for cx, cy in corners)}z"


def fill(index: int, ids: str) -> str:
    """The fill attribute of the index-th series of bars; `patterns` with these ids defines what it names."""
    found = _FILLS[index]
    return found if isinstance(found, str) else f"url(#{ids}-f{index})"


def patterns(indices: Iterable[int], ids: str) -> str:
    """<defs> of the fills with these indices; empty where none has a pattern."""
    found = "".join(_pattern(index, ids) for index in sorted(set(indices)))
    return element("defs", found) if found else ""


def _pattern(index: int, ids: str) -> str:
    given = _FILLS[index]
    if isinstance(given, str):
        return ""
    width, height, degrees, drawing = given
    return element(
        "pattern",
        element("rect", width=width, height=height, fill="white") + drawing,
        id=f"{ids}-f{index}",
        patternUnits="userSpaceOnUse",
        width=width,
        height=height,
        patternTransform=f"rotate({degrees})" if degrees else "",
    )
