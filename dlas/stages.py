"""The stages of a trial that the host does: each gives its outcome, from the cache or made in the worker."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dlas import cache, training, tuned
from dlas.errors import BuildError, DataError, ModelError, StorageError
from dlas.progress import Progress
from dlas.systems import artifact as artifacts
from dlas.systems.autoschedule.workload import Choice
from dlas.trial import Settings, Trial
from dlas.values import (
    CALIBRATION_IMAGES,
    Artifact,
    Cell,
    Compiler,
    Compression,
    Contents,
    Data,
    Evaluation,
    ModelSpec,
    Target,
    Weights,
)
from dlas.worker import Limit, Worker, tell

QUANTIZED_FILES = ("model.onnx", "oracle.npy")


def obtain_network(trial: Trial, worker: Worker, progress: Progress) -> Trial:
    """The trial with its weights and level, which are there or trained now. Raises what training raises."""
    trial = trial.renewed()
    if trial.network.fault is not None:
        raise trial.network.fault
    cell, settings = trial.cell, trial.settings
    limit = Limit(settings.train_timeout_s, "training", "--train-timeout")
    if not trial.network.is_unfinished:
        return trial
    if isinstance(trial.data, DataError):
        raise trial.data
    data = trial.data
    if trial.network.must_train:
        progress.say(f"training {cell.model.name} on {cell.dataset} with recipe {cell.recipe}")
        progress.stage(cell.id, "training")
        arguments = (cell.model, data, cell.recipe, settings.checkpoints)
        progress.say(training.describe(worker.call(trial.log, limit, train_network, *arguments)))
        trial = trial.renewed()
    if trial.network.must_finetune:
        asked = trial.network.asked
        progress.say(
            f"pruning {cell.model.name} on {cell.dataset} by {asked.technique}, recipe {cell.finetuning}"
        )
        progress.stage(cell.id, "pruning")
        pruned = (cell.finetuning, asked.technique, settings.checkpoints, asked.level_fraction)
        base = trial.network.dense_weights
        worker.call(trial.log, limit, prune_network, cell.model, data, base, *pruned)
        trial = trial.renewed()
    return trial


def obtain_layers(trial: Trial, worker: Worker) -> Trial:
    """The trial, if it is tuned with the list of its workloads. Raises what building raises."""
    if trial.is_tuned and trial.tuned is None:
        limit, compiler = build_limit(trial.settings), trial.planned.target.compiler
        names = worker.call(trial.log, limit, list_layers, _source(trial), trial.cell, compiler)
        tuned.write_layers(trial.layers_path, names)
    return trial.renewed()


def obtain_artifact(trial: Trial, worker: Worker) -> Artifact:
    """The compiled cell. Raises what quantizing and building raise."""
    folder, target = trial.artifact_folder, trial.planned.target
    if not folder.is_dir():
        quantized = obtain_quantized(trial, worker)
        source = _source(trial, quantized)
        with cache.atomic_folder(folder) as made:
            limit, key = build_limit(trial.settings), trial.artifact_key
            choices = trial.tuned.choices if trial.tuned else {}
            worker.call(trial.log, limit, compile_cell, source, trial.cell, target, key, made, choices)
    return artifacts.read(folder)


def obtain_quantized(trial: Trial, worker: Worker) -> Path | None:
    """The folder of the network in 8-bit integers, None for one of floats. Raises what quantizing raises."""
    if not trial.quantized_key:
        return None
    folder = trial.settings.root / "quantized" / trial.quantized_key[:32]
    if not folder.is_dir():
        images = _obtain_calibration(trial, worker)
        source = _source(trial)
        activations = trial.planned.target.compiler.int8_activations
        with cache.atomic_folder(folder) as made:
            arguments = (source, images, trial.cell.precision, activations, made)
            worker.call(trial.log, build_limit(trial.settings), quantize_network, *arguments)
    check_quantized(folder)
    return folder


def _obtain_calibration(trial: Trial, worker: Worker) -> Path | None:
    """The images to quantize on; None, for noise, where there are none that fit the network."""
    try:
        return _obtain_images(trial, "val", CALIBRATION_IMAGES, trial.calibration_key, worker)
    except DataError:
        return None  # the row says so, in its column `calibration`


def obtain_evaluation(trial: Trial, worker: Worker) -> Evaluation | None:
    """What the accuracy of a trial rests on, None where it can have none. Raises what the oracle raises."""
    if isinstance(trial.data, DataError) or not trial.reference_key:
        return None
    images = _obtain_images(trial, "test", trial.settings.images, trial.images_key, worker)
    reference = trial.settings.root / "reference" / trial.reference_key[:32]
    if images is not None and not reference.is_dir():
        source = _source(trial, obtain_quantized(trial, worker))
        with cache.atomic_folder(reference) as made:
            arguments = (source, trial.cell.dataset, images, made)
            worker.call(trial.log, build_limit(trial.settings), predict_images, *arguments)
    return None if images is None else read_evaluation(images, reference, trial.data)


def _source(trial: Trial, quantized: Path | None = None) -> Source:
    return Source(trial.cell.model, trial.weights, trial.network.resolved, quantized)


def _obtain_images(trial: Trial, split: str, count: int, key: str, worker: Worker) -> Path | None:
    """The folder of images with this key, None without data."""
    if isinstance(trial.data, DataError):
        return None
    folder = trial.settings.root / "images" / key[:32]
    if not folder.is_dir():
        with cache.atomic_folder(folder) as made:
            arguments = (trial.data, trial.cell.model, split, count, made)
            worker.call(trial.log, build_limit(trial.settings), prepare_images, *arguments)
    return folder


def check_quantized(folder: Path) -> dict[str, Any]:
    """What is said of a quantized network in its folder. Raises BuildError where it is not what was made."""
    try:
        about: dict[str, Any] = json.loads((folder / "about.json").read_text())
        if about["sha256"] != cache.hash_files([folder / name for name in QUANTIZED_FILES]):
            raise ValueError("its files are not what they were")
        return about
    except (OSError, ValueError, KeyError, StorageError) as error:
        next_step = f"delete {folder} and run the same command again"
        raise BuildError(f"{folder} is damaged: {error}", next_step) from error


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


@dataclass(frozen=True)
class Source:
    """What is compiled: a network in PyTorch, and where its form in 8-bit integers lies, if it has one."""

    spec: ModelSpec
    weights: Weights
    compression: Compression
    quantized: Path | None = None


def train_network(spec: ModelSpec, data: Data, recipe: str, checkpoints: Path) -> Weights:
    """Train a network, or go on with a training that was killed."""
    from dlas.models import recipe as recipes
    from dlas.models.train import Machine, train

    one = Machine(devices="1")  # more would need processes of their own
    return train(spec, data, recipes.load(recipe), checkpoints, one, tell)


def prune_network(
    spec: ModelSpec,
    data: Data,
    base: Weights,
    how: str,
    technique: str,
    checkpoints: Path,
    up_to: float | None,
) -> None:
    """Prune a network and train it on, level by level, or go on with that."""
    from dlas.compression import finetuning
    from dlas.compression.finetune import finetune
    from dlas.models.train import Machine

    one = Machine(devices="1")
    finetune(spec, data, base, finetuning.load(how), technique, checkpoints, up_to, tell, one)


def compile_cell(
    source: Source, cell: Cell, target: Target, key: str, folder: Path, choices: Mapping[str, Choice]
) -> None:
    """Load a network and compile it into `folder`, with what a search chose for its workloads."""
    from dlas.systems.build import build

    imported, contents = import_network(source)
    chosen: dict[str, Any] = {"choices": choices} if cell.tuning == "tuned" else {}
    build(imported, contents, cell, target, key, folder, **chosen)


def list_layers(source: Source, cell: Cell, compiler: Compiler) -> list[str]:
    """The workloads of a network, one for each convolution, in order."""
    from dlas.systems.passes import list_workloads

    imported, _ = import_network(source)
    found = list_workloads(imported.mod, cell.algorithm, cell.format, compiler)
    return [workload.id for workload in found]


@lru_cache(maxsize=1)  # the cells of one network follow each other
def import_network(source: Source) -> tuple[Any, Contents]:
    """The network as Relax, and what it must compute."""
    import numpy as np

    from dlas.compression.compressed import load
    from dlas.systems import frontend, quantized

    started = time.monotonic()
    model = load(source.spec, source.weights, source.compression)
    oracle, oracle_name, calibration, seconds = model.output, "pytorch", "", {}
    if source.quantized is None:
        imported = frontend.import_network(model.module, model.input)
    else:
        about = check_quantized(source.quantized)
        calibration, seconds["quantize"] = about["calibration"], about["seconds"]
        oracle, oracle_name = np.load(source.quantized / "oracle.npy"), "onnxruntime"
        imported = quantized.import_quantized(source.quantized / "model.onnx", model.input)
    seconds["import"] = time.monotonic() - started
    return imported, Contents(
        weights=source.weights,
        level_fraction=source.compression.level_fraction or 0.0,
        oracle_name=oracle_name,
        oracle=oracle,
        float32=model.output,
        calibration=calibration,
        stage_seconds=seconds,
    )


def quantize_network(source: Source, images: Path | None, arm: str, activations: str, folder: Path) -> None:
    """Write the network in 8-bit integers, calibrated on these images or on noise, and what it computes."""
    import numpy as np

    from dlas.compression import quantize
    from dlas.compression.compressed import load
    from dlas.compression.export import export_onnx

    started = time.monotonic()
    model = load(source.spec, source.weights, source.compression)
    if images is None:
        calibration = quantize.noise(model.input.shape)
        words = f"{len(calibration)} images of noise"
    else:
        calibration = np.load(images / "images.npy", mmap_mode="r", allow_pickle=False)
        words = f"{len(calibration)} images of val"
    with TemporaryDirectory() as temporary:
        floats = Path(temporary, "float.onnx")
        export_onnx(model.module, model.input, floats)
        quantize.quantize(floats, calibration, arm, activations, folder / "model.onnx")
    np.save(folder / "oracle.npy", quantize.predict(folder / "model.onnx", model.input))
    sha256 = cache.hash_files([folder / name for name in QUANTIZED_FILES])
    about = {"calibration": words, "seconds": time.monotonic() - started, "sha256": sha256}
    (folder / "about.json").write_text(json.dumps(about))


def prepare_images(data: Data, spec: ModelSpec, split: str, count: int, folder: Path) -> None:
    """Write the first images of a split, as the network wants them."""
    from dlas.datasets import splits
    from dlas.models import imagenet

    shape = spec.input_shape
    transform = imagenet.transform(spec.factory, shape) if data.name == "imagenet" else None
    splits.save_evaluation(data, split, count, transform or splits.test_transform(data.name, shape), folder)


def predict_images(source: Source, dataset: str, images: Path, folder: Path) -> None:
    """Write what the oracle makes of the images. Raises ModelError for other than the dataset's classes."""
    import numpy as np

    from dlas.compression import quantize
    from dlas.compression.compressed import load
    from dlas.datasets.catalog import DATASETS
    from dlas.models.loading import predict

    array = np.load(images / "images.npy", mmap_mode="r")
    if source.quantized is None:
        module = load(source.spec, source.weights, source.compression).module
        started = time.monotonic()
        logits = predict(module, array)
    else:
        started = time.monotonic()
        logits = quantize.predict(source.quantized / "model.onnx", array)
    seconds, classes = time.monotonic() - started, DATASETS[dataset].classes
    if logits.shape[1:] != (classes,):
        output = list(logits.shape[1:])
        cause = f"model {source.spec.name}: its output is {output}, {dataset} has {classes} classes"
        raise ModelError(cause, "its weights are for another dataset")
    np.save(folder / "logits.npy", logits)
    sha256 = cache.hash_files([images / "labels.npy", folder / "logits.npy"])
    (folder / "about.json").write_text(json.dumps({"seconds": seconds, "sha256": sha256}))
