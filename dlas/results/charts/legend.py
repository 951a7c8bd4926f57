"""What the marks of a chart stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlas.results.charts.svg import TICK_PX, element, number, text, text_width

SWATCH_PX = (26.0, 10.0)
_ROW_PX, _GAP_PX, _BETWEEN_PX = 16.0, 5.0, 16.0


@dataclass(frozen=True)
class Key:
    """A name, and the drawing beside it: SVG from 0, 0 to SWATCH_PX."""

    name: str
    swatch: str

    @property
    def width_px(self) -> float:
        return SWATCH_PX[0] + _GAP_PX + text_width(self.name, TICK_PX)


def rows(keys: Iterable[Key], width_px: float) -> list[list[Key]]:
    """Each key once, in rows of this width; one that is wider has a row of its own."""
    found: list[list[Key]] = []
    for key in dict.fromkeys(keys):
        if found and row_width([*found[-1], key]) <= width_px:
            found[-1].append(key)
        else:
            found.append([key])
    return found


def height_px(rows: Sequence[Sequence[Key]]) -> float:
    return _ROW_PX * len(rows) + 4 * bool(rows)


def draw(rows: Iterable[Sequence[Key]], left: float, top: float) -> str:
    drawn = []
    for i, row in enumerate(rows):
        x, y = left, top + i * _ROW_PX
        for key in row:
            drawn.append(element("g", key.swatch, transform=f"translate({number(x)} {number(y)})"))
            drawn.append(text(x + SWATCH_PX[0] + _GAP_PX, y + SWATCH_PX[1] - 1, key.name, TICK_PX))
            x += key.width_px + _BETWEEN_PX
    return "".join(drawn)


def row_width(row: Sequence[Key]) -> float:
    return sum(key.width_px for key in row) + _BETWEEN_PX * (len(row) - 1)
