"""TOML files that a user may write: found by name or path, read, and refused with one line that says why."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dlas.errors import DlasError, did_you_mean

SUFFIX = ".toml"
NAME = re.compile(r"[a-z0-9_]+")
NAME_RULE = "small letters, digits, underscores"
_REPOSITORY = Path(__file__).resolve().parents[1]

Words = Collection[str]


def find(kind: str, name_or_path: str, names: Mapping[str, Path], error: type[DlasError]) -> Path:
    """The file of a name, or a file anywhere that ends in .toml. kind: what it is, for messages.

    Raises `error`, with the names that there are and the closest one.
    """
    if name_or_path.endswith(SUFFIX):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise error(f"{name_or_path}: no such file", f"give a {kind}'s name or the path of its file")
        return path
    if name_or_path not in names:
        raise error(
            f"unknown {kind} {name_or_path!r}, known are {', '.join(sorted(names))}",
            did_you_mean(name_or_path, names) or f"give one of them, or a path that ends in {SUFFIX}",
        )
    return names[name_or_path]


def shipped(folder: Path) -> dict[str, Path]:
    """The TOML files of a folder by the names that they give."""
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def read(path: Path, error: type[DlasError]) -> dict[str, Any]:
    """Contents of a TOML file. Raises `error`, naming file and line."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise error(f"{shown(path)}: not TOML: {cause}", "correct the file") from cause
    except OSError as cause:
        raise error(f"{shown(path)}: cannot be read: {cause.strerror}", "check its permissions") from cause


def check_name(kind: str, path: Path, error: type[DlasError]) -> None:
    """A file's name names what it declares: in cell ids, folders and columns. Raises `error`."""
    if not NAME.fullmatch(path.stem):
        cause = f"{shown(path)}: names the {kind} {path.stem!r}, allowed: {NAME_RULE}"
        raise error(cause, "rename the file")


def check_keys(where: str, keys: Words, allowed: Words, needed: Words, error: type[DlasError]) -> None:
    """Refuse keys that are unknown or missing. where: file and table, for the message. Raises `error`."""
    words = ", ".join(allowed)
    for key in keys:
        if key not in allowed:
            raise error(f"{where} unknown key {key!r}, allowed: {words}", did_you_mean(key, allowed))
    for key in needed:
        if key not in keys:
            raise error(f"{where} {key} is missing, the keys are {words}", "add it")


def shown(path: Path) -> str:
    """A file's name in messages: from the repository's root for what dlas ships, else as the user gave it."""
    return str(path.relative_to(_REPOSITORY) if path.is_relative_to(_REPOSITORY) else path)
