"""How pruned networks are trained on, level by level: a TOML file of `recipes/`, or a user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from dlas import cache, tomlfile
from dlas.compression.notation import TECHNIQUES
from dlas.errors import UsageError
from dlas.models import recipe as recipes
from dlas.models.recipe import Recipe

_SEEDS = 2**32


@dataclass(frozen=True)
class Finetuning:
    """A recipe, and the shares that are pruned by each technique, rising: each level starts from the last.

    recipe.epochs: of all levels of one technique together.
    """

    recipe: Recipe
    weight_levels: tuple[float, ...]
    channel_levels: tuple[float, ...]


def load(name_or_path: str) -> Finetuning:
    """The recipe of a name, or of a file anywhere that ends in .toml. Raises UsageError."""
    path, raw = recipes.read(name_or_path, finetunes=True)
    return from_table(path.stem, f"{tomlfile.shown(path)}:", raw)


def from_table(name: str, where: str, raw: Mapping[str, Any]) -> Finetuning:
    """Check the values of a recipe. where: the file, for messages. Raises UsageError."""
    keys = (*recipes.KEYS, *recipes.LEVEL_KEYS)
    tomlfile.check_keys(where, raw, keys, keys, UsageError)
    recipe = recipes.from_table(name, where, {key: raw[key] for key in recipes.KEYS})
    lists = []
    for key in recipes.LEVEL_KEYS:
        if misfit := _misfit(raw[key], recipe.epochs):
            raise UsageError(f"{where} {key} is {raw[key]!r}, {misfit}", "correct the file")
        lists.append(tuple(raw[key]))
    return Finetuning(recipe, *lists)


def levels(finetuning: Finetuning, technique: str) -> tuple[float, ...]:
    """The shares that a technique prunes, rising. Raises ValueError for what is no technique."""
    if technique not in TECHNIQUES:
        raise ValueError(f"{technique!r} is none of {TECHNIQUES}")
    return finetuning.weight_levels if technique == "weight" else finetuning.channel_levels


def steps(finetuning: Finetuning, technique: str) -> tuple[tuple[float, Recipe], ...]:
    """Each level, and how it is trained: with an even share of the epochs, and crops of its own.

    Each has a whole schedule of its own. So a level can be resumed, or left to its own file, without those
    after it; and it is judged at the end of a cycle, where one cut at a high learning rate would seem worse.
    """
    recipe, found = finetuning.recipe, levels(finetuning, technique)
    ends = [(i + 1) * recipe.epochs // len(found) for i in range(len(found))]
    return tuple(
        (level, replace(recipe, epochs=end - start, seed=(recipe.seed + i) % _SEEDS))
        for i, (level, start, end) in enumerate(zip(found, [0, *ends[:-1]], ends, strict=True))
    )


def digest(finetuning: Finetuning, technique: str = "") -> str:
    """One hash of all that a recipe does to a network, by one technique or by each; its name does nothing."""
    chosen = [levels(finetuning, each) for each in ([technique] if technique else TECHNIQUES)]
    return cache.digest(recipes.digest(finetuning.recipe), json.dumps(chosen))


def percent(level_fraction: float) -> int:
    """A level as it is written in names.

    >>> percent(0.55)
    55
    """
    return round(100 * level_fraction)


def _misfit(value: Any, epochs: int) -> str:
    """Why this is no list of levels; empty where it is."""
    if not isinstance(value, list) or not value:
        return "allowed is a list of shares, as [0.5, 0.9]"
    for level in value:
        if type(level) is not float or not 0.01 <= level <= 0.99 or level != percent(level) / 100:
            return f"where {level!r} is no share of whole per cents from 0.01 to 0.99"
    if any(later <= earlier for earlier, later in pairwise(value)):
        return "allowed are levels that rise"
    if epochs < len(value):
        return f"more levels than its {epochs} epochs"
    return ""
