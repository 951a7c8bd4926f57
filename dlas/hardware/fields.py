"""The fields of what a runner answers, not trusted: each is taken once and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from dlas.errors import DeviceError

INT64_MAX = 2**63 - 1
_MAX_TEXT = 4096


def refuse(what: str) -> NoReturn:
    """Raise the DeviceError of an answer that is none."""
    raise DeviceError(f"the runner's answer cannot be used: {what}", "build the runner or its image again")


def decode(text: str) -> str:
    """The text of a string of which each character stands for one byte."""
    try:
        return text.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        refuse("a string holds characters that are no bytes")


class Fields:
    """The fields of a JSON object. Every method raises DeviceError."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def has(self, key: str) -> bool:
        return key in self._fields

    def take(self, key: str, kind: type) -> Any:
        value = self._fields.pop(key, None)
        if type(value) is not kind:  # not isinstance: True is no integer here
            refuse(f"'{key}' is missing or not of type {kind.__name__}")
        return value

    def finish(self) -> None:
        """See that no field is left."""
        if self._fields:
            refuse(f"unknown field {ascii(next(iter(self._fields)))[:400]}")

    def integer(self, key: str, high: int, low: int = 1) -> int:
        value: int = self.take(key, int)
        if not low <= value <= high:
            refuse(f"'{key}' is not a number of {low} to {high}")
        return value

    def integers(self, key: str, count: int, high: int) -> tuple[int, ...]:
        values: list[Any] = self.take(key, list)
        if len(values) != count:
            refuse(f"'{key}' has {len(values)} entries, {count} were asked for")
        if not all(type(value) is int and 1 <= value <= high for value in values):
            refuse(f"'{key}' holds what is not a time of 1 to {high} ns")
        return tuple(values)

    def matching(self, key: str, pattern: re.Pattern[str], what: str) -> str:
        value: str = self.take(key, str)
        if len(value) > _MAX_TEXT or not pattern.fullmatch(value):
            refuse(f"'{key}' is not {what}")
        return value

    def files(self, key: str) -> dict[str, str]:
        """Contents by path."""
        files: dict[str, Any] = self.take(key, dict)
        if not all(type(contents) is str for contents in files.values()):
            refuse(f"'{key}' holds a file that is not text")
        return {decode(path): decode(contents) for path, contents in files.items()}
