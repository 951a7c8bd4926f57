"""Where rows were measured: what is compared within a place, and never across."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from dlas.results.entries import Entry
from dlas.results.lines import Line, grouped, lines_of
from dlas.results.tables import count, printable


@dataclass(frozen=True, eq=False)
class Section:
    """The rows of one target on one device, with one runner and number of threads, emulated or not."""

    rows: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        return self.rows[0]

    @property
    def is_emulated(self) -> bool:
        return self.first.emulated or self.first.status == "emulated"

    @property
    def short_title(self) -> str:
        """The target and, as one of several may have it, the beginning of the device's fingerprint."""
        return f"{self.first.target} ({self.first.device[:8]})"

    @property
    def title(self) -> str:
        row = self.first
        if not row.device:
            return f"{row.target}, no device"
        gpu = next((each.gpu for each in self.rows if each.gpu), "")
        place = f"{gpu or row.device_model or 'device'} ({row.device[:12]})"
        title = f"{row.target} on {place}, {row.runner} runner, {count(row.threads, 'thread')}"
        if row.timer == "events":
            title += ", timed by its driver's events"
        if self.is_emulated:
            title += ", emulated: only the output was checked, the times mean nothing"
        return printable(title)

    @cached_property
    def timed(self) -> list[Line]:
        return lines_of(self.rows)

    @property
    def others(self) -> list[Entry]:
        """Rows without a time that counts."""
        return sorted(
            (row for row in self.rows if not row.is_timed), key=lambda row: (row.cell, row.replicate)
        )


def sections_of(rows: Iterable[Entry]) -> list[Section]:
    """A section for each place, emulated ones last. rows: as `entries.latest` gives them."""
    return [Section(tuple(group)) for group in grouped(rows, _place)]


def contests_of(lines: Iterable[Line]) -> list[list[Line]]:
    """Lines that are compared with each other: of one network on one dataset."""
    return grouped(lines, lambda line: line.contest)


def _place(row: Entry) -> tuple[bool, str, str, str, int]:
    return row.emulated or row.status == "emulated", row.target, row.device, row.runner, row.threads
