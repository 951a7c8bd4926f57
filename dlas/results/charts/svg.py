"""SVG as text: elements, links, and texts whose widths are estimated.

Lengths are px of the viewBox. Nothing here depends on the fonts of a machine: widths are estimated from a
table of a wide sans-serif font, so that texts in a narrower one leave some room.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from unicodedata import combining, east_asian_width
from xml.sax.saxutils import escape, quoteattr

INK = "#1a1a1a"
MUTED = "#6e6e6e"
RULE = "#dcdcdc"
ACCENT = "#17527f"
TICK_PX, TEXT_PX, TITLE_PX = 10.0, 11.0, 12.0
LINE_EMS = 1.25  # from one line of a text to the next
_BOLD = 1.12
_EMS = {
    letter: ems
    for ems, letters in (
        (0.29, "'ijlIJ"),
        (0.34, " ,./\\:;|"),
        (0.4, "!()-[]ft`"),
        (0.43, "r"),
        (0.56, '"*?_cszLF'),
        (0.62, "aevxykoPTEY"),
        (0.7, "ABCKRSVXZ"),
        (0.79, "DGHNOQU&"),
        (0.87, "+<>=#^~wM"),
        (1.0, "mW%@"),
    )
    for letter in letters
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def overlaps(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def number(value: float) -> str:
    """Tenths of a px.

    >>> number(3.0), number(2.04), number(-0.04)
    ('3', '2', '0')
    """
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


def escaped(text: str) -> str:
    """Text as the content of an element; what XML cannot hold becomes a space.

    >>> escaped("a<b & c" + chr(0))
    'a&lt;b &amp; c '
    """
    return escape(_NOT_XML.sub(" ", text))


def quoted(value: str | float) -> str:
    """The value of an attribute, with its quotes."""
    return quoteattr(_NOT_XML.sub(" ", value)) if isinstance(value, str) else f'"{number(value)}"'


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Attributes with `_` for `-`; empty ones are left out. The content is SVG already.

    >>> element("line", x1=0, y2=1.25, stroke_width=0.5, stroke="")
    '<line x1="0" y2="1.2" stroke-width="0.5"/>'
    """
    given = "".join(
        f" {key.replace('_', '-')}={quoted(value)}" for key, value in attributes.items() if value != ""
    )
    return f"<{name}{given}>{content}</{name}>" if content else f"<{name}{given}/>"


def text(
    x: float,
    y: float,
    words: str,
    size_px: float = TEXT_PX,
    anchor: str = "",
    bold: bool = False,
    fill: str = "",
    halo: bool = False,
    transform: str = "",
) -> str:
    """One line, its baseline at y. anchor: start where empty, middle or end; halo: white around letters."""
    if not words:
        return ""
    around = "paint-order:stroke;stroke:white;stroke-width:3px;stroke-linejoin:round"
    return element(
        "text",
        escaped(words),
        x=x,
        y=y,
        font_size=size_px,
        text_anchor=anchor,
        font_weight="bold" if bold else "",
        fill=fill,
        transform=transform,
        style=around if halo else "",
    )


def linked(content: str, title: str, href: str) -> str:
    """Content that shows a title where the pointer rests on it, and leads to href; either may be empty."""
    tip = f"<title>{escaped(title)}</title>" if title else ""
    if href:
        return f"<a href={quoted(href)}>{tip}{content}</a>"
    return f"<g>{tip}{content}</g>" if tip else content


def text_width(words: str, size_px: float = TEXT_PX, bold: bool = False) -> float:
    """Estimated px of one line."""
    return sum(map(_ems, words)) * size_px * (_BOLD if bold else 1.0)


def wrap(words: str, width_px: float, size_px: float = TEXT_PX, bold: bool = False) -> list[str]:
    """Lines of at most this width, broken between words, and inside a word that is wider alone.

    >>> wrap("one two three", 50)
    ['one two', 'three']
    """
    lines: list[str] = []
    for word in words.split():
        if lines and text_width(f"{lines[-1]} {word}", size_px, bold) <= width_px:
            lines[-1] = f"{lines[-1]} {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size_px, bold) > width_px:
                lines.append("")
            lines[-1] += letter
    return lines


def _ems(letter: str) -> float:
    if combining(letter):
        return 0.0
    return _EMS.get(letter) or (1.05 if east_asian_width(letter) in "WF" else 0.65 if letter < "ɐ" else 0.8)
