"""Numbers and tables as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isfinite

NONE = "-"
_UNITS = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))
# As in 1.5, 12%, 1.20x, 3.1 ms (3.0 .. 3.2*), 99.4% (98.0% .. 99.9%) of 360.
_NUMBER = re.compile(r"(?:[-+]?[\d.,]+[%x]?(?: (?:s|ms|us|ns|KiB))?(?: \([^()]*\))?(?: of \d+)?|-|inf)")


def unit_of(fastest_ns: float) -> tuple[str, float]:
    """The largest unit that keeps the fastest above one, and its nanoseconds.

    >>> unit_of(2_500_000)
    ('ms', 1000000.0)
    """
    return next((unit for unit in _UNITS if fastest_ns >= unit[1]), _UNITS[-1])


def interval_text(low: float, high: float, digits: int = 3) -> str:
    """
    >>> interval_text(0.9, 1.25, 2), interval_text(0, float("inf"))
    ('0.90 .. 1.25', '-')
    """
    return f"{low:.{digits}f} .. {high:.{digits}f}" if isfinite(high) else NONE


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row is its heading: numbers to the right, words to the left.

    >>> aligned([("cell", "ms"), ("a", "1.5"), ("bcd", "10.5")])
    ['  cell    ms', '  a      1.5', '  bcd   10.5']
    """
    columns = list(zip(*rows, strict=True))
    padded = []
    for column in columns:
        width = max(map(len, column))
        padded.append(
            [field.rjust(width) if is_numeric(column[1:]) else field.ljust(width) for field in column]
        )
    return [("  " + "  ".join(fields)).rstrip() for fields in zip(*padded, strict=True)]


def is_numeric(fields: Iterable[str]) -> bool:
    """Whether these, as far as they are there, begin with numbers.

    >>> is_numeric(["1.5", "", "12% (10% .. 14%)"]), is_numeric(["direct"])
    (True, False)
    """
    return all(_NUMBER.fullmatch(field) for field in fields if field)


def count(number: int, noun: str) -> str:
    """
    >>> count(2, "row")
    '2 rows'
    """
    return f"{number:,} {noun}" + "s" * (number != 1)


def printable(text: str) -> str:
    """One line: what a device or a compiler said may hold line ends and control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
