"""Where a trained network lies, and what is said of it there: known without torch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from dlas import cache
from dlas.errors import TrainingError, UsageError
from dlas.models import recipe as recipes
from dlas.models.recipe import Recipe
from dlas.values import ModelSpec

# What is in a checkpoint's folder, beside TensorBoard's events.
WEIGHTS = "weights.pt"  # the finished network: state_dict, probe, about
MANIFEST = "manifest.json"  # written last: where it is, training has finished
LAST = "last.ckpt"  # Lightning's, of the last whole epoch; gone when training has finished
METRICS = "metrics.csv"  # one line for each epoch
_LOCK = ".lock"

_KEPT_DIGITS = 12


@dataclass(frozen=True)
class Manifest:
    """What is known of a finished network. Fractions are of n images; seconds are those of its epochs.

    key: hash of the network's definition as asked for, the dataset's name and the recipe. sha256 is of
    `WEIGHTS`. model: the spec's name, factory, arguments and input_shape. finished_at: ISO 8601, UTC.
    """

    key: str
    sha256: str
    model: Mapping[str, Any]
    dataset: str
    data_sha256: str
    recipe: Recipe
    val_top1_fraction: float
    val_n: int
    test_top1_fraction: float
    test_n: int
    seconds: float
    versions: Mapping[str, str]
    finished_at: str


_Kind = TypeVar("_Kind", bound=Manifest)
_TYPES = {"str": str, "float": float, "int": int}  # of the annotations above


def key(spec: ModelSpec, dataset: str, recipe: Recipe) -> str:
    """Hash of what is trained, whatever it is called. The network's code does not count."""
    asked = [spec.factory, sorted(spec.arguments), list(spec.input_shape), dataset, recipes.digest(recipe)]
    return cache.digest(json.dumps(asked))


def folder(checkpoints: Path, spec: ModelSpec, dataset: str, recipe: Recipe, data_sha256: str) -> Path:
    """Where a network lies that is trained by a recipe on the data with this hash."""
    name = f"{_prefix(spec, dataset, recipe)}{data_sha256[:_KEPT_DIGITS]}"
    return checkpoints / dataset / spec.name / name


def finished(checkpoints: Path, spec: ModelSpec, dataset: str, recipe: Recipe) -> list[tuple[Path, Manifest]]:
    """The folders of a network that this recipe has trained, on whatever data, the newest first.

    Raises TrainingError for a damaged manifest.
    """
    parent = checkpoints / dataset / spec.name
    prefix = _prefix(spec, dataset, recipe)
    paths = sorted(path for path in parent.glob(f"*/{MANIFEST}") if path.parent.name.startswith(prefix))
    found = [(path.parent, read(path.parent)) for path in paths]
    wanted = key(spec, dataset, recipe)
    ours = [(path, manifest) for path, manifest in found if manifest.key == wanted]
    return sorted(ours, key=lambda pair: pair[1].finished_at, reverse=True)


def read(folder: Path) -> Manifest:
    """What is known of the finished network in here. Raises TrainingError when it cannot be read."""
    return read_as(Manifest, folder)


def read_as(kind: type[_Kind], folder: Path) -> _Kind:
    """As `read`, of a manifest that says more."""
    path = folder / MANIFEST
    try:
        return _parse(kind, json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__} {error}"
        raise TrainingError(f"{path} cannot be read: {reason}", f"remove {folder} and train again") from error


def write(folder: Path, manifest: Manifest) -> None:
    """Say that the network in here is finished. Raises StorageError."""
    table = asdict(manifest)
    table["recipe"] = {"name": manifest.recipe.name, **recipes.to_table(manifest.recipe)}
    cache.atomic_write(folder / MANIFEST, (json.dumps(table, indent=1) + "\n").encode())


def describe(spec: ModelSpec) -> dict[str, Any]:
    """The `model` of a manifest."""
    return {
        "name": spec.name,
        "factory": spec.factory,
        "arguments": dict(spec.arguments),
        "input_shape": list(spec.input_shape),
    }


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process at a time train in here. Raises TrainingError when another one does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cache.storage_error(folder, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cause = f"{folder}: another process trains this network"
            raise TrainingError(cause, "wait for it to end, then run the same command again") from None
        yield
    finally:
        os.close(descriptor)


def _prefix(spec: ModelSpec, dataset: str, recipe: Recipe) -> str:
    return f"{recipe.name}-{key(spec, dataset, recipe)[:_KEPT_DIGITS]}-"


def _parse(kind: type[_Kind], raw: Mapping[str, Any]) -> _Kind:
    values = {field.name: raw[field.name] for field in fields(kind)}
    for field in fields(kind):
        wanted = _TYPES.get(str(field.type), dict)
        if not isinstance(values[field.name], wanted):
            raise TypeError(f"{field.name} is {values[field.name]!r}")
    table = dict(values["recipe"])
    return kind(**{**values, "recipe": recipes.from_table(table.pop("name"), "recipe:", table)})
