"""Where the levels of a pruned network lie, and what is said of them there: known without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from dlas import cache
from dlas.compression import finetuning as finetunings
from dlas.compression.finetuning import Finetuning
from dlas.models import checkpoint
from dlas.models import weights as weights_of
from dlas.values import LevelPoint, ModelSpec, Weights

_KEPT_DIGITS = 12


@dataclass(frozen=True)
class Level(checkpoint.Manifest):
    """What is known of one level. seconds and recipe are its own; level 0 has trained for none.

    key: see `key`. pruned_fraction: the share of the convolutions' weights that is zero.
    """

    technique: str
    level_fraction: float
    pruned_fraction: float


def find(
    spec: ModelSpec,
    dataset: str,
    base: Weights,
    finetuning: Finetuning,
    technique: str,
    checkpoints: Path,
    data_sha256: str = "",
) -> tuple[LevelPoint, ...]:
    """The finished levels of a network, rising, from level 0, which is the dense one, up to the first gap.

    Empty where not even level 0 is known. A level that was trained from another file than the level before
    it now has does not count, nor does one of other data than those with this hash, if it is given. Raises
    TrainingError for a damaged manifest or file of weights.
    """
    points: list[LevelPoint] = []
    last, wanted = base, key(spec, dataset, base, finetuning, technique)
    parent = folder(spec, dataset, base, finetuning, technique, checkpoints)
    for level in (0.0, *finetunings.levels(finetuning, technique)):
        path = level_folder(parent, level, last)
        if not (path / checkpoint.MANIFEST).exists():
            break
        manifest = checkpoint.read_as(Level, path)
        if manifest.key != wanted or data_sha256 not in ("", manifest.data_sha256):
            break
        if level:
            last = replace(
                last,
                path=weights_of.checked_file(path, manifest),
                sha256=manifest.sha256,
                finetuning=finetuning.recipe.name,
                finetune_seconds=last.finetune_seconds + manifest.seconds,
            )
        points.append(_point(manifest, last))
    return tuple(points)


def folder(
    spec: ModelSpec, dataset: str, base: Weights, finetuning: Finetuning, technique: str, checkpoints: Path
) -> Path:
    """Where the levels of a network lie that one technique prunes by a recipe."""
    digits = key(spec, dataset, base, finetuning, technique)[:_KEPT_DIGITS]
    return checkpoints / dataset / spec.name / f"{finetuning.recipe.name}-{technique}-{digits}"


def level_folder(parent: Path, level_fraction: float, previous: Weights) -> Path:
    """Where a level lies that starts from these weights; level 0 is those of the dense network."""
    name = f"{finetunings.percent(level_fraction):02d}-{previous.sha256[:_KEPT_DIGITS]}"
    return parent / name


def key(spec: ModelSpec, dataset: str, base: Weights, finetuning: Finetuning, technique: str) -> str:
    """Hash of what is pruned and how, whatever it is called. The network's code does not count."""
    network = [spec.factory, sorted(spec.arguments), list(spec.input_shape), dataset, base.sha256]
    return cache.digest(json.dumps(network), technique, finetunings.digest(finetuning, technique))


def _point(manifest: Level, weights: Weights) -> LevelPoint:
    return LevelPoint(
        level_fraction=manifest.level_fraction,
        pruned_fraction=manifest.pruned_fraction,
        val_top1_fraction=manifest.val_top1_fraction,
        val_n=manifest.val_n,
        test_top1_fraction=manifest.test_top1_fraction,
        test_n=manifest.test_n,
        weights=weights,
    )
