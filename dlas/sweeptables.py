"""What a sweep's file says beside its axes: how networks are trained, pruned and tuned, and the elbow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlas import tomlfile
from dlas.compression import finetuning
from dlas.datasets.catalog import DATASETS
from dlas.errors import SweepError, did_you_mean
from dlas.models import recipe

FIX = "correct the file"
MAX_DROP_FRACTION = 0.01  # where a sweep does not say


@dataclass(frozen=True)
class Training:
    """How the networks of a dataset get their weights: with this recipe, a name or a file.

    train: whether the sweep itself trains a network that has no checkpoint yet. finetuning: the recipe, a
    name or a file, by which they are pruned and trained on; empty where they are not.
    """

    recipe: str
    train: bool
    finetuning: str = ""


@dataclass(frozen=True)
class Budget:
    """How long each workload of a tuned cell is searched.

    trials: how many variants, at most, all that are recorded counted. early_stop: so many in a row that made
    the best no faster end it; 0: none do.
    """

    trials: int
    early_stop: int


PAPER = Budget(20_000, 1000)


def trainings(file: str, raw: Any, folder: Path) -> dict[str, Training]:
    """How networks are trained, by dataset. Raises SweepError, and UsageError for the recipe's own file."""
    found = {}
    for dataset, where, table in tables(file, raw, "training"):
        if dataset not in DATASETS:
            near = did_you_mean(dataset, DATASETS) or FIX
            raise SweepError(f"{where} is for no dataset, allowed: {', '.join(DATASETS)}", near)
        needed = ("recipe", "train")
        tomlfile.check_keys(where, table, (*needed, "finetuning"), needed, SweepError)
        train = table["train"]
        name = _recipe(f"{where} recipe", table["recipe"], folder)
        if not isinstance(train, bool):
            raise SweepError(f"{where} train is {train!r}, allowed are true and false", FIX)
        if train and not DATASETS[dataset].trains:
            raise SweepError(
                f"{where} train is true, {dataset} has no training images here", "set it to false"
            )
        recipe.load(name)
        found[dataset] = Training(name, train, _finetuning(where, table, folder))
    return found


def max_drop(where: str, raw: Any) -> float:
    """The threshold of the elbow. Raises SweepError."""
    if not isinstance(raw, dict):
        raise SweepError(f"{where} is not a table", "write it as [elbow]")
    keys = ("max_drop_fraction",)
    tomlfile.check_keys(where, raw, keys, (), SweepError)
    value = raw.get(keys[0], MAX_DROP_FRACTION)
    if type(value) not in (int, float) or not 0 <= value < 1:  # also where it is not a number
        raise SweepError(f"{where} {keys[0]} is {value!r}, allowed is a share from 0 to below 1", FIX)
    return float(value)


def budget(where: str, raw: Any) -> Budget:
    """How long a search may be. Raises SweepError."""
    if not isinstance(raw, dict):
        raise SweepError(f"{where} is not a table", "write it as [tuning]")
    least = {"trials": 1, "early_stop": 0}
    tomlfile.check_keys(where, raw, tuple(least), (), SweepError)
    for key, value in raw.items():
        if type(value) is not int or value < least[key]:
            raise SweepError(f"{where} {key} is {value!r}, allowed is a number from {least[key]} on", FIX)
    return replace(PAPER, **raw)


def tables(file: str, raw: Any, key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, place and contents of each table of [key.NAME]. Raises SweepError."""
    if not isinstance(raw, dict):
        raise SweepError(f"{file}: {key} is not a table of tables", f"write each as [{key}.NAME]")
    for name, table in raw.items():
        where = f"{file}: [{key}.{name}]"
        if not isinstance(table, dict):
            raise SweepError(f"{where} is not a table", f"write it as [{key}.{name}]")
        yield name, where, table


def named_file(where: str, value: Any, folder: Path) -> str:
    """A file that a sweep names, from the sweep's own folder. Raises SweepError where there is none."""
    if not isinstance(value, str) or not value:
        raise SweepError(f"{where} is {value!r}, allowed is the path of a file", FIX)
    path = folder / Path(value).expanduser()
    if not path.is_file():
        raise SweepError(f"{where}: {path} is no file", "paths are relative to the sweep's file")
    return str(path.resolve())


def _finetuning(where: str, table: dict[str, Any], folder: Path) -> str:
    """The recipe by which networks are pruned, empty without one. Raises as `trainings`."""
    if "finetuning" not in table:
        return ""
    name = _recipe(f"{where} finetuning", table["finetuning"], folder)
    finetuning.load(name)
    return name


def _recipe(where: str, name: Any, folder: Path) -> str:
    """A recipe's name, or the path of its file. Raises SweepError."""
    if isinstance(name, str) and name.endswith(tomlfile.SUFFIX):
        return named_file(where, name, folder)
    if not isinstance(name, str):
        raise SweepError(f"{where} is {name!r}, allowed is a recipe's name or its file", FIX)
    return name
