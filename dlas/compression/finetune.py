"""Pruning a trained network further and further, and training it on at each level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dlas.compression import finetuning as finetunings
from dlas.compression import levels
from dlas.compression.finetuning import Finetuning
from dlas.compression.prune import named, pruned_fraction
from dlas.compression.prune_callbacks import PruneChannels, PruneWeights
from dlas.errors import TrainingError, UsageError
from dlas.models import checkpoint, loading
from dlas.models import train as training
from dlas.models import trainer as trainers
from dlas.models.learner import Learner, Loaders
from dlas.models.recipe import Recipe
from dlas.models.train import Machine
from dlas.tomlfile import shown
from dlas.values import Data, LevelPoint, ModelSpec, Weights

_ONE = Machine()  # what there is


def finetune(
    spec: ModelSpec,
    data: Data,
    base: Weights,
    finetuning: Finetuning,
    technique: str,
    checkpoints: Path,
    up_to: float | None = None,
    report: Callable[[str], None] | None = None,
    machine: Machine = _ONE,
) -> tuple[LevelPoint, ...]:
    """Prune and train on, from the dense weights `base`, each level from the one before: as `levels.find`.

    Level 0 is the dense network, judged and not trained. What is finished is not done again, and a training
    that was killed goes on after its last whole epoch; on the CPU it ends with the weights that it would have
    had. up_to: the last level wanted, without it all of the recipe's. report: gets a line for each epoch;
    without it there is a progress bar. Raises UsageError for a level that the recipe has not, for weights
    that are not trained or a machine that is not there, ModelError, DataError, TrainingError, and
    KeyboardInterrupt.
    """
    task = _Task(spec, data, base, finetuning, technique, checkpoints, report, machine)
    steps = _chosen(task, up_to)
    _check_base(task)
    with training.alone(task.folder):
        if not task.points():
            _judge(task)
        judged = levels.level_folder(task.folder, 0.0, base)
        if checkpoint.read_as(levels.Level, judged).data_sha256 != data.sha256:
            cause = f"{shown(task.folder)} was trained on other data than this {data.name}"
            raise TrainingError(cause, "remove it to train on this, or give the other data")
        for i, (level, recipe) in enumerate(steps, start=1):
            points = task.points()
            if len(points) <= i:
                _train(task, level, recipe, points[-1].weights)
    return task.points()[: len(steps) + 1]


@dataclass(frozen=True)
class _Task:
    """What `finetune` is asked for."""

    spec: ModelSpec
    data: Data
    base: Weights
    finetuning: Finetuning
    technique: str
    checkpoints: Path
    report: Callable[[str], None] | None
    machine: Machine

    @property
    def asked(self) -> tuple[ModelSpec, str, Weights, Finetuning, str]:
        return self.spec, self.data.name, self.base, self.finetuning, self.technique

    @property
    def folder(self) -> Path:
        return levels.folder(*self.asked, self.checkpoints)

    def points(self) -> tuple[LevelPoint, ...]:
        return levels.find(*self.asked, self.checkpoints)

    def facts(self, level: float, pruned: float) -> dict[str, Any]:
        """What a manifest says of a level, beside what training says."""
        return {
            "key": levels.key(*self.asked),
            "dataset": self.data.name,
            "data_sha256": self.data.sha256,
            "technique": self.technique,
            "level_fraction": level,
            "pruned_fraction": pruned,
        }


def _chosen(task: _Task, up_to: float | None) -> tuple[tuple[float, Recipe], ...]:
    steps = finetunings.steps(task.finetuning, task.technique)
    known = [level for level, _ in steps]
    if up_to is None:
        return steps
    if up_to not in known:
        name, words = task.finetuning.recipe.name, ", ".join(f"{level:g}" for level in known)
        cause = f"recipe {name} has no {task.technique} level {up_to:g}, it has {words}"
        raise UsageError(cause, "choose one of them, or give another recipe")
    return steps[: known.index(up_to) + 1]


def _check_base(task: _Task) -> None:
    base, name = task.base, task.spec.name
    if not base.trained:
        raise UsageError(f"model {name} has no trained weights to prune", base.reason)
    if base.finetuning:
        raise UsageError(f"model {name}: {base.path} is pruned already", "give the dense weights")
    if base.data_sha256 not in ("", task.data.sha256):
        cause = f"model {name}: {base.path} was trained on other data than this {task.data.name}"
        raise UsageError(cause, "give the data that it was trained on, or train it on this")


def _learner(task: _Task, level: float, recipe: Recipe, weights: Weights, folder: Path) -> Learner:
    """A network with these weights, about to be trained to a level."""
    model = loading.load(task.spec, weights)
    training.check_classes(task.spec, model.output, task.data.name)
    where = f"{task.technique} {level:g}"
    report = task.report and partial(_tell, task.report, where)
    start, metrics = torch.from_numpy(model.output), folder / checkpoint.METRICS
    name = f"{task.spec.name} at {where}"
    return Learner(name, model.module.train(), start, recipe, metrics, report)


def _tell(report: Callable[[str], None], where: str, line: str) -> None:
    report(f"{where}, {line}")


def _judge(task: _Task) -> None:
    """Level 0: how often the dense network is right on val and test."""
    recipe, folder = task.finetuning.recipe, levels.level_folder(task.folder, 0.0, task.base)
    splits = training.open_splits(task.spec, task.data, recipe)
    with trainers.prepared(recipe.seed, recipe.threads):
        learner = _learner(task, 0.0, recipe, task.base, folder)
        trainer = trainers.make(task.machine, recipe, folder, not learner.reports)
        figures: dict[str, Any] = {}
        for name, images in (("val", splits.val), ("test", splits.test)):
            loaders = Loaders(replace(splits, test=images), recipe, task.machine.workers)
            tested = trainers.test(trainer, learner, loaders)
            figures |= training.exact(
                name, {key.replace("test", name): value for key, value in tested.items()}
            )
        if trainer.is_global_zero:
            manifest = levels.Level(
                **task.facts(0.0, pruned_fraction(learner.network)),
                **figures,
                model=checkpoint.describe(task.spec),
                recipe=recipe,
                sha256=task.base.sha256,
                seconds=0.0,
                versions=training.versions(),
                finished_at=checkpoint.now(),
            )
            checkpoint.write(folder, manifest)
            if task.report is not None:
                _tell(task.report, f"{task.technique} 0", f"val {manifest.val_top1_fraction:.1%}")
        trainer.strategy.barrier()


def _train(task: _Task, level: float, recipe: Recipe, previous: Weights) -> None:
    """One level, into its folder."""
    folder = levels.level_folder(task.folder, level, previous)
    loaders = Loaders(training.open_splits(task.spec, task.data, recipe), recipe, task.machine.workers)
    with trainers.prepared(recipe.seed, recipe.threads):
        learner = _learner(task, level, recipe, previous, folder)
        noise = torch.from_numpy(loading.noise(task.spec))
        pruning = PruneWeights(level) if task.technique == "weight" else PruneChannels(level, noise)

        def finish(tested: Mapping[str, float]) -> None:
            facts = task.facts(level, pruned_fraction(learner.network))
            training.save(task.spec, learner, tested, folder, levels.Level, facts)

        with named(task.spec):
            training.learn(learner, loaders, task.machine, folder, True, finish, [pruning])
