"""The stages of a trial that the host does: each gives its outcome, from the cache or made in the worker."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlas import cache, training
from dlas.errors import BuildError, DataError, ModelError
from dlas.progress import Progress
from dlas.systems import artifact as artifacts
from dlas.trial import Settings, Trial
from dlas.values import Artifact, Cell, Data, Evaluation, ModelSpec, Target, Weights
from dlas.worker import Limit, Worker, tell


def obtain_weights(trial: Trial, worker: Worker, progress: Progress) -> Trial:
    """The trial with its weights: those that are there, or trained now. Raises what training raises."""
    trial = trial.renewed()
    if not trial.must_train:
        return trial
    if isinstance(trial.data, DataError):
        raise trial.data
    cell, settings = trial.cell, trial.settings
    progress.say(f"training {cell.model.name} on {cell.dataset} with recipe {cell.recipe}")
    progress.stage(trial.cell.id, "training")
    limit = Limit(settings.train_timeout_s, "training", "--train-timeout")
    arguments = (cell.model, trial.data, cell.recipe, settings.checkpoints)
    progress.say(training.describe(worker.call(trial.log, limit, train_network, *arguments)))
    return trial.renewed()


def obtain_artifact(trial: Trial, worker: Worker) -> Artifact:
    """The compiled cell. Raises what building raises."""
    folder, target = trial.artifact_folder, trial.planned.target
    if not folder.is_dir():
        with cache.atomic_folder(folder) as made:
            limit, key = build_limit(trial.settings), trial.artifact_key
            worker.call(trial.log, limit, compile_cell, trial.cell, trial.weights, target, key, made)
    return artifacts.read(folder)


def obtain_evaluation(trial: Trial, worker: Worker) -> Evaluation | None:
    """What the accuracy of a trial rests on, None where it can have none. Raises what PyTorch raises."""
    if isinstance(trial.data, DataError) or not trial.reference_key:
        return None
    limit, cell, count = build_limit(trial.settings), trial.cell, trial.settings.images
    images = trial.settings.root / "images" / trial.images_key[:32]
    if not images.is_dir():
        with cache.atomic_folder(images) as made:
            worker.call(trial.log, limit, prepare_images, trial.data, cell.model, count, made)
    reference = trial.settings.root / "reference" / trial.reference_key[:32]
    if not reference.is_dir():
        with cache.atomic_folder(reference) as made:
            arguments = (cell.model, trial.weights, cell.dataset, images, made)
            worker.call(trial.log, limit, predict_images, *arguments)
    return read_evaluation(images, reference, trial.data)


def build_limit(settings: Settings) -> Limit:
    return Limit(settings.build_timeout_s, "building", "--build-timeout")


def read_evaluation(images: Path, reference: Path, data: Data) -> Evaluation:
    """The arrays of these two folders, the images mapped into memory. Raises BuildError for damaged ones."""
    import numpy as np

    try:
        about = json.loads((reference / "about.json").read_text())
        if about["sha256"] != cache.hash_files([images / "labels.npy", reference / "logits.npy"]):
            raise ValueError("labels or logits are not what they were")
        return Evaluation(
            images=np.load(images / "images.npy", mmap_mode="r", allow_pickle=False),
            labels=np.load(images / "labels.npy", allow_pickle=False),
            logits=np.load(reference / "logits.npy", allow_pickle=False),
            dataset_sha256=data.sha256,
            seconds=about["seconds"],
        )
    except (OSError, ValueError, KeyError) as error:
        next_step = f"delete {images} and {reference}, and run the same command again"
        raise BuildError(f"{images} or {reference} is damaged: {error}", next_step) from error


# What follows runs in the worker: it imports torch and TVM.


def train_network(spec: ModelSpec, data: Data, recipe: str, checkpoints: Path) -> Weights:
    """Train a network, or go on with a training that was killed."""
    from dlas.models import recipe as recipes
    from dlas.models.train import Machine, train

    one = Machine(devices="1")  # more would need processes of their own
    return train(spec, data, recipes.load(recipe), checkpoints, one, tell)


def compile_cell(cell: Cell, weights: Weights, target: Target, key: str, folder: Path) -> None:
    """Load a network and compile it into `folder`."""
    from dlas.systems.build import build

    imported, oracle = import_network(cell.model, weights)
    build(imported, oracle, weights, cell, target, key, folder)


@lru_cache(maxsize=1)  # the cells of one network follow each other
def import_network(spec: ModelSpec, weights: Weights) -> Any:
    """The network as Relax, and PyTorch's output for its input."""
    from dlas.models.loading import load
    from dlas.systems import frontend

    started = time.monotonic()
    model = load(spec, weights)
    loaded = time.monotonic()
    imported = frontend.import_network(model.module, model.input)
    return replace(imported, seconds=imported.seconds + loaded - started), model.output


def prepare_images(data: Data, spec: ModelSpec, count: int, folder: Path) -> None:
    """Write the images that accuracy is taken on as the network wants them."""
    from dlas.datasets import splits
    from dlas.models import imagenet

    shape = spec.input_shape
    transform = imagenet.transform(spec.factory, shape) if data.name == "imagenet" else None
    splits.save_evaluation(data, "test", count, transform or splits.test_transform(data.name, shape), folder)


def predict_images(spec: ModelSpec, weights: Weights, dataset: str, images: Path, folder: Path) -> None:
    """Write what the network makes of the images in PyTorch. Raises ModelError for other than its classes."""
    import numpy as np

    from dlas.datasets.catalog import DATASETS
    from dlas.models.loading import load, predict

    module = load(spec, weights).module
    started = time.monotonic()
    logits = predict(module, np.load(images / "images.npy", mmap_mode="r"))
    seconds, classes = time.monotonic() - started, DATASETS[dataset].classes
    if logits.shape[1:] != (classes,):
        cause = f"model {spec.name}: its output is {list(logits.shape[1:])}, {dataset} has {classes} classes"
        raise ModelError(cause, "its weights are for another dataset")
    np.save(folder / "logits.npy", logits)
    sha256 = cache.hash_files([images / "labels.npy", folder / "logits.npy"])
    (folder / "about.json").write_text(json.dumps({"seconds": seconds, "sha256": sha256}))
