"""Training or pruning one network in the foreground, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlas import sweepfile, tomlfile
from dlas.compression import finetuning as finetunings
from dlas.compression.elbow import find_elbow
from dlas.compression.notation import TECHNIQUES
from dlas.datasets import catalog
from dlas.errors import UsageError, did_you_mean
from dlas.models import checkpoint
from dlas.models import recipe as recipes
from dlas.models import weights as weights_of
from dlas.models.recipe import Recipe
from dlas.results.curves import Curve, to_table
from dlas.results.statistics import proportion_interval
from dlas.values import Data, ModelSpec, Weights


def choose(sweep: str, model: str, dataset: str, recipe: str) -> tuple[ModelSpec, Recipe]:
    """A network of a sweep as it is for a dataset, and how it is trained.

    An empty sweep is the dataset's own, an empty recipe what that sweep says. Raises UsageError.
    """
    if dataset not in catalog.DATASETS:
        near = did_you_mean(dataset, catalog.DATASETS) or "give one of them"
        raise UsageError(f"unknown dataset {dataset!r}, known are {', '.join(catalog.DATASETS)}", near)
    if not catalog.DATASETS[dataset].trains:
        names = ", ".join(name for name, known in catalog.DATASETS.items() if known.trains)
        raise UsageError(f"{dataset} has no training images here", f"train on one of {names}")
    loaded = sweepfile.load(sweep or sweepfile.OF_DATASET.get(dataset, dataset))
    if model not in loaded.models:
        near = did_you_mean(model, loaded.models) or "declare your own in a sweep and name that with --sweep"
        raise UsageError(f"unknown model {model!r}, known are {', '.join(loaded.models)}", near)
    if not recipe and dataset not in loaded.training:
        raise UsageError(f"sweep {loaded.name} has no [training.{dataset}]", "give a --recipe")
    name = recipe or loaded.training[dataset].recipe
    return sweepfile.define(loaded.models[model], dataset), recipes.load(name)


def run(
    spec: ModelSpec, recipe: Recipe, data: Data, checkpoints: Path, force: bool, machine: Mapping[str, Any]
) -> str:
    """Train with a progress bar, or go on with a training that was killed; returns `describe`'s line.

    machine: fields of `models.train.Machine`. Raises what training raises.
    """
    from dlas.models.train import Machine, train

    return describe(train(spec, data, recipe, checkpoints, Machine(**machine), force=force))


def prune(
    sweep: str,
    model: str,
    dataset: str,
    technique: str,
    up_to: int,
    data: Data,
    checkpoints: Path,
    machine: Mapping[str, Any],
) -> str:
    """Prune a trained network of a sweep and train it on, with a progress bar, or go on with that.

    sweep is as in `choose`; what it says of training, pruning and the elbow holds. up_to: the last level, in
    per cent; 0 for all. machine: as in `run`. Returns the table of the levels. Raises what pruning raises.
    """
    from dlas.compression.finetune import finetune
    from dlas.models.train import Machine

    if technique not in TECHNIQUES:
        near = did_you_mean(technique, TECHNIQUES) or f"give one of {', '.join(TECHNIQUES)}"
        raise UsageError(f"unknown technique {technique!r}", near)
    spec, _ = choose(sweep, model, dataset, "")
    loaded = sweepfile.load(sweep or sweepfile.OF_DATASET.get(dataset, dataset))
    asked = loaded.training[dataset]
    if not asked.finetuning:
        cause = f"sweep {loaded.name} has no finetuning in [training.{dataset}]"
        raise UsageError(cause, "name a recipe with levels there")
    how = finetunings.load(asked.finetuning)
    base = weights_of.find(spec, dataset, asked.recipe, data.sha256, checkpoints)
    last = up_to / 100 if up_to else None
    points = finetune(spec, data, base, how, technique, checkpoints, last, machine=Machine(**machine))
    elbow = find_elbow(points, loaded.max_drop_fraction)
    chosen = None if elbow == points[0] else elbow
    return to_table([Curve(model, dataset, technique, points, chosen, loaded.max_drop_fraction)])


def describe(weights: Weights) -> str:
    """What came of a training, with 95% intervals of its accuracies. Raises UsageError or TrainingError."""
    if weights.path is None:
        raise UsageError("these weights are no checkpoint", "train them")
    found = checkpoint.read(weights.path.parent)
    val = _share(found.val_top1_fraction, found.val_n)
    test = _share(found.test_top1_fraction, found.test_n)
    name = f"{found.model['name']} on {found.dataset} with recipe {found.recipe.name}"
    accuracy = f"top-1 {test} test images, {val} validation images"
    return f"{name}: {accuracy}; {found.seconds:.0f} s; {tomlfile.shown(weights.path)}"


def _share(fraction: float, n: int) -> str:
    low, high = proportion_interval(fraction, n)
    return f"{fraction:.1%} ({low:.1%} .. {high:.1%}) of {n}"
