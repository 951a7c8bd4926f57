"""How a compression is written: dense, weight90, weight@elbow, uniform90, channel40, channel40_shrunk."""

from __future__ import annotations

import re

from dlas.errors import UsageError, did_you_mean
from dlas.values import Compression

TECHNIQUES = ("weight", "channel")  # by which a recipe prunes a network level by level
RULE = (
    "dense, uniformNN, weightNN, channelNN, channelNN_shrunk, with NN from 01 to 99 per cent, "
    "or @elbow for NN but in uniformNN"
)

_NAME = re.compile(r"(?P<technique>weight|channel|uniform)(?P<level>[0-9]{2}|@elbow)(?P<shrunk>_shrunk)?")


def parse(name: str) -> Compression:
    """What a name asks for. Raises UsageError.

    >>> parse("channel@elbow_shrunk")
    Compression(technique='channel', level_fraction=None, shrunk=True)
    """
    if name == "dense":
        return Compression()
    match = _NAME.fullmatch(name)
    if not match or match["level"] == "00" or (match["shrunk"] and match["technique"] != "channel"):
        raise UsageError(f"unknown compression {name!r}, allowed: {RULE}", _near(name) or "write one of them")
    level = None if match["level"] == "@elbow" else int(match["level"]) / 100
    if match["technique"] == "uniform" and level is None:
        raise UsageError(f"{name!r}: uniform pruning has no elbow", "write weight@elbow, or a level")
    return Compression(match["technique"], level, bool(match["shrunk"]))


def write(compression: Compression) -> str:
    """The name that `parse` reads. Raises UsageError for a level that has none: not a whole per cent.

    >>> write(Compression("channel", 0.05, shrunk=True))
    'channel05_shrunk'
    """
    if compression == Compression():
        return "dense"
    level = "@elbow"
    if compression.level_fraction is not None:
        check_level(compression.level_fraction)
        percent = round(100 * compression.level_fraction)
        if abs(percent / 100 - compression.level_fraction) > 1e-9:
            raise UsageError(
                f"level {compression.level_fraction} is no whole per cent", "give one, as in 0.9"
            )
        level = f"{percent:02d}"
    name = compression.technique + level + "_shrunk" * compression.shrunk
    parse(name)
    return name


def check_level(level_fraction: float) -> None:
    """Raises UsageError unless it is a share: from 0 to 1, both without."""
    if not 0 < level_fraction < 1:  # also where it is not a number
        raise UsageError(f"level {level_fraction} is not between 0 and 1", "give a share, as in 0.9")


def _near(name: str) -> str:
    """The next step for a misspelt name, with the level that it gives; empty when nothing is like it."""
    number = re.search(r"[0-9]+", name)
    level = number[0].zfill(2) if number else "@elbow"
    if number and (level == "00" or len(level) > 2):
        return ""
    known = (f"{technique}{level}" for technique in (*TECHNIQUES, "uniform"))
    return did_you_mean(name, ("dense", *known, f"channel{level}_shrunk"))
