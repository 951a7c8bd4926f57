"""How a network is trained: a TOML file of `recipes/`, or a user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dlas import cache, tomlfile
from dlas.errors import UsageError

FOLDER = Path(__file__).parents[1] / "recipes"
SCHEDULES = ("onecycle", "cosine")

# Smallest and largest value of each number. A learning rate of 0 would train nothing.
_WHOLE = {
    "epochs": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "crop_padding": (0, 1000),
    "seed": (0, 2**32 - 1),  # what NumPy takes
    "threads": (0, 1024),
}
_REAL = {"learning_rate": (1e-9, 1e3), "momentum": (0.0, 0.9999), "weight_decay": (0.0, 1.0)}


@dataclass(frozen=True)
class Recipe:
    """SGD over cross-entropy, with one learning rate for each step.

    learning_rate: the largest one. batch_size: images in a step, over all devices together.
    crop_padding: pixels of the border that random crops are taken with, 0 for none. flip: whether half
    of the images are mirrored. threads: of PyTorch on a CPU, 0 for as many as it likes; the weights
    differ with their number, and those of a narrow network wait for each other on busy cores.
    """

    name: str
    description: str
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    crop_padding: int
    flip: bool
    seed: int
    threads: int


KEYS = tuple(field.name for field in fields(Recipe))[1:]  # of a file, whose name is the first
LEVEL_KEYS = ("weight_levels", "channel_levels")  # beside them, of a file that fine-tunes pruned networks


def load(name_or_path: str) -> Recipe:
    """The recipe of a name, or of a file anywhere that ends in .toml. Raises UsageError."""
    path, raw = read(name_or_path, finetunes=False)
    return from_table(path.stem, f"{tomlfile.shown(path)}:", raw)


def read(name_or_path: str, finetunes: bool) -> tuple[Path, dict[str, Any]]:
    """The file of a recipe and what it says, unchecked but for its kind. Raises UsageError.

    finetunes: whether it has `LEVEL_KEYS`, so that it trains pruned networks on, level by level.
    """
    names = tomlfile.shipped(FOLDER)
    if name_or_path not in names:
        names = _of_kind(names, finetunes)
    path = tomlfile.find("recipe", name_or_path, names, UsageError)
    raw = tomlfile.read(path, UsageError)
    tomlfile.check_name("recipe", path, UsageError)
    if _finetunes(raw) != finetunes:
        others = ", ".join(_of_kind(tomlfile.shipped(FOLDER), finetunes))
        has = "levels, so it trains pruned networks on" if _finetunes(raw) else "no levels to prune to"
        wanted = "fine-tunes" if finetunes else "trains from scratch"
        raise UsageError(f"{tomlfile.shown(path)}: has {has}", f"give a recipe that {wanted}, as {others}")
    return path, raw


def from_table(name: str, where: str, raw: Mapping[str, Any]) -> Recipe:
    """Check the values of a recipe. where: the file, for messages. Raises UsageError."""
    tomlfile.check_keys(where, raw, KEYS, KEYS, UsageError)
    values = dict(raw)
    for key in KEYS:
        if wanted := _misfit(key, values[key]):
            raise UsageError(f"{where} {key} is {values[key]!r}, allowed is {wanted}", "correct the file")
        if key in _REAL:
            values[key] = float(values[key])
    return Recipe(name, **values)


def to_table(recipe: Recipe) -> dict[str, Any]:
    """What `from_table` takes beside the name."""
    return {key: getattr(recipe, key) for key in KEYS}


def digest(recipe: Recipe) -> str:
    """One hash of all that a recipe does to a network; its name and description do nothing."""
    table = asdict(recipe)
    del table["name"], table["description"]
    return cache.digest(json.dumps(table, sort_keys=True))


def _finetunes(raw: Mapping[str, Any]) -> bool:
    return any(key in raw for key in LEVEL_KEYS)


def _of_kind(paths: Mapping[str, Path], finetunes: bool) -> dict[str, Path]:
    read = {name: tomlfile.read(path, UsageError) for name, path in paths.items()}
    return {name: paths[name] for name, raw in read.items() if _finetunes(raw) == finetunes}


def _misfit(key: str, value: Any) -> str:
    """What a key takes, where the value is not that; empty where it is."""
    if key in _WHOLE:
        low, high = _WHOLE[key]
        is_fit = type(value) is int and low <= value <= high
        return "" if is_fit else f"a whole number from {low} to {high}"
    if key in _REAL:
        least, most = _REAL[key]
        is_fit = type(value) in (int, float) and least <= value <= most
        return "" if is_fit else f"a number from {least:g} to {most:g}"
    if key == "flip":
        return "" if isinstance(value, bool) else "true or false"
    if key == "schedule":
        return "" if value in SCHEDULES else " or ".join(SCHEDULES)
    return "" if isinstance(value, str) else "a string"
