"""What makes two rows the same row, and the name that tells one row from all others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from dlas.cache import digest
from dlas.values import REPEATS

_HASH = re.compile(r"[0-9a-f]{32,}")
_ID_DIGITS = 16


@dataclass(frozen=True)
class Identity:
    """What makes two rows the same row: the cell, and all that its samples depend on.

    device is the fingerprint; inputs_key hashes everything the row is made from (code, weights,
    target, versions); repeats is how many samples were asked for, whatever came of it.
    """

    cell: str
    device: str
    runner: str
    threads: int
    emulated: bool
    replicate: int
    inputs_key: str
    repeats: int = REPEATS

    @property
    def stem(self) -> str:
        """The file name up to the repeats: rows that differ only in those lie side by side."""
        place = "emulated" if self.emulated else "real"
        return (
            f"{_short(self.device)}-{self.runner}-t{self.threads}-{place}"
            f"-p{self.replicate}-{_short(self.inputs_key)}-n"
        )


COLUMNS = tuple(field.name for field in fields(Identity))
ROW_ID_COLUMNS = ("id", *COLUMNS, "started_at")  # the id, and what it is made from


def identify(row: Any) -> Identity:
    """Of a `values.Row`, or of anything else that has its columns as attributes."""
    return Identity(**{name: getattr(row, name) for name in COLUMNS})


def row_id(columns: Mapping[str, Any]) -> str:
    """The id of a row with these columns, which tables, plots and pages name it by: 16 hexadecimal digits.

    It hashes the identity and the moment when measuring began, so that a row that was measured anew has
    another one.
    """
    parts = [str(columns[name]) for name in COLUMNS]
    started_at: datetime = columns["started_at"]
    return digest(*parts, started_at.astimezone(UTC).isoformat())[:_ID_DIGITS]


def _short(key: str) -> str:
    """Enough of a hash to tell it apart; what is no hash becomes one, so that no two names share a start."""
    return key[:16] if _HASH.fullmatch(key) else digest(key)[:16]
