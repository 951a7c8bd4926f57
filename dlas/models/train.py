"""Training a network from scratch by a recipe, on from where it was left, into a checkpoint."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dlas import cache
from dlas.datasets import catalog
from dlas.datasets.splits import open_split, test_transform, train_transform
from dlas.errors import ModelError, UsageError
from dlas.models import checkpoint, loading, weights
from dlas.models import recipe as recipes
from dlas.models import trainer as trainers
from dlas.models.learner import Learner, Loaders, Splits
from dlas.models.recipe import Recipe
from dlas.values import Data, ModelSpec, Weights

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback

_PACKAGES = ("torch", "torchvision", "pytorch-lightning")


@dataclass(frozen=True)
class Machine:
    """What trains: arguments of Lightning's Trainer, and the processes for each loader of images.

    The strategy "ddp" starts the same command again for each further device; "ddp_fork" and
    "ddp_spawn" start processes, and with the latter what is called for each epoch must be picklable.
    """

    accelerator: str = "auto"
    devices: str = "auto"
    strategy: str = "auto"
    precision: str = "32-true"
    workers: int = 0


def train(
    spec: ModelSpec,
    data: Data,
    recipe: Recipe,
    checkpoints: Path,
    machine: Machine = Machine(),
    report: Callable[[str], None] | None = None,
    force: bool = False,
) -> Weights:
    """Train a network on the train split of `data`; a finished one is only trained again with `force`.

    A training that was killed goes on after its last whole epoch, and on the CPU ends with the weights
    that it would have had. What comes of it does not depend on anything but the arguments and the
    versions of PyTorch, on one kind of machine. A checkpoint's folder is
    described in `checkpoint`. report: gets a line for each epoch; without it there is a progress bar.
    Raises UsageError for a network with weights of its own or a machine that is not there, ModelError,
    DataError, TrainingError for what fails or diverges, and KeyboardInterrupt.
    """
    if spec.weights:
        raise UsageError(f"model {spec.name} has weights of its own", "train it without them")
    folder = checkpoint.folder(checkpoints, spec, data.name, recipe, data.sha256)
    with alone(folder):
        if not force:
            found = weights.trained(spec, data.name, recipe, data.sha256, checkpoints)
            if found.trained:
                return found
        _train(spec, data, recipe, folder, machine, report, resumes=not force)
    return weights.trained(spec, data.name, recipe, data.sha256, checkpoints)


def open_splits(spec: ModelSpec, data: Data, recipe: Recipe) -> Splits:
    """The splits of a dataset as a network takes them, at random where it learns. Raises DataError."""
    shape = spec.input_shape
    learned = train_transform(data.name, shape, recipe.crop_padding, recipe.flip)
    seen = test_transform(data.name, shape)
    return Splits(
        train=open_split(data, "train", learned),
        val=open_split(data, "val", seen),
        test=open_split(data, "test", seen),
    )


def learn(
    learner: Learner,
    loaders: Loaders,
    machine: Machine,
    folder: Path,
    resumes: bool,
    finish: Callable[[Mapping[str, float]], None],
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train to the last epoch, going on from one that is in `folder` if it `resumes`, and judge on test.

    The network is back on the CPU then, and the first process has called `finish` with the figures on the
    test split. To be called in `trainer.prepared`. callbacks: Lightning's, further ones. Raises as `train`.
    """
    last = folder / checkpoint.LAST
    trainer = trainers.make(machine, learner.recipe, folder, not learner.reports, callbacks)
    trainers.fit(trainer, learner, loaders, last if resumes and last.exists() else None)
    _restore(learner, last)
    tested = trainers.test(trainer, learner, loaders)
    if trainer.is_global_zero:
        finish(tested)
    trainer.strategy.barrier()


def check_classes(spec: ModelSpec, output: np.ndarray, dataset: str) -> None:
    """Raises ModelError unless a network's output is a number for each class of a dataset."""
    classes = catalog.known(dataset).classes
    if output.shape[1:] != (classes,):
        cause = f"model {spec.name}: its output is {list(output.shape)}, {dataset} has {classes} classes"
        raise ModelError(cause, "correct the network or its arguments")


def exact(split: str, figures: Mapping[str, float]) -> dict[str, Any]:
    """Top-1 and the number of images of a split, without what Lightning's float32 did to them."""
    n = round(figures[f"{split}_n"])
    correct = round(figures[f"{split}_top1_fraction"] * n)
    return {f"{split}_top1_fraction": correct / n, f"{split}_n": n}


def versions() -> dict[str, str]:
    """Of the packages that the weights depend on."""
    return {name: version(name) for name in _PACKAGES}


def save(
    spec: ModelSpec,
    learner: Learner,
    tested: Mapping[str, float],
    folder: Path,
    kind: type[checkpoint.Manifest],
    facts: Mapping[str, Any],
) -> None:
    """Write what a learner has become, then the manifest of this kind, which makes it count.

    facts: what the manifest says beside the network, its figures and times. Raises StorageError.
    """
    network, recipe, epoch = learner.network.cpu().float(), learner.recipe, learner.history[-1]
    facts = {
        **facts,
        "model": checkpoint.describe(spec),
        **exact("val", epoch),
        **exact("test", tested),
        "versions": versions(),
    }
    # No times in here: the same training gives the same file.
    content = {
        "state_dict": network.state_dict(),
        "probe": torch.from_numpy(loading.probe(spec, network)),
        "about": {**facts, "recipe": {"name": recipe.name, **recipes.to_table(recipe)}},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    manifest = kind(
        **facts,
        recipe=recipe,
        sha256=hashlib.sha256(buffer.getbuffer()).hexdigest(),
        seconds=sum(figures["seconds"] for figures in learner.history),
        finished_at=checkpoint.now(),
    )
    (folder / checkpoint.MANIFEST).unlink(missing_ok=True)
    cache.atomic_write(folder / checkpoint.WEIGHTS, buffer.getvalue())
    checkpoint.write(folder, manifest)
    (folder / checkpoint.LAST).unlink()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The first process of a training keeps other trainings out; its further devices' are let in."""
    if trainers.is_first_process():
        with checkpoint.lock(folder):
            yield
    else:
        yield


def _train(
    spec: ModelSpec,
    data: Data,
    recipe: Recipe,
    folder: Path,
    machine: Machine,
    report: Callable[[str], None] | None,
    resumes: bool,
) -> None:
    facts = {
        "key": checkpoint.key(spec, data.name, recipe),
        "dataset": data.name,
        "data_sha256": data.sha256,
    }
    loaders = Loaders(open_splits(spec, data, recipe), recipe, machine.workers)
    with trainers.prepared(recipe.seed, recipe.threads):
        network = loading.make(spec)
        start = loading.probe(spec, network)
        check_classes(spec, start, data.name)
        metrics = folder / checkpoint.METRICS
        learner = Learner(spec.name, network.train(), torch.from_numpy(start), recipe, metrics, report)

        def finish(tested: Mapping[str, float]) -> None:
            save(spec, learner, tested, folder, checkpoint.Manifest, facts)

        learn(learner, loaders, machine, folder, resumes, finish)


def _restore(learner: Learner, last: Path) -> None:
    """The learner as it was after the last epoch, which may have been in another process."""
    content = torch.load(last, map_location="cpu", weights_only=True)
    learner.cpu().float().load_state_dict(content["state_dict"])
    learner.history = content["history"]
