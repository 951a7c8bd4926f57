"""Names for what the stages make: a hash of all that goes in, known without torch, TVM or a build."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from functools import cache as once
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from subprocess import run

from dlas import cache
from dlas.models.sources import source_files
from dlas.values import PACKAGES, WARMUPS, Cell, Compression, Data, ModelSpec, Target, Weights

_PRUNING_FILES = ("channel", "channel_graph", "channel_labels", "channel_operators", "compressed", "prune")
_ROOT = Path(__file__).parent
_COMPILES = (_ROOT / "algorithms", _ROOT / "systems")
# Of the hardware's modules, those that run and time.
_RUNS = (
    *("commands.py", "device.py", "failures.py", "fields.py", "process.py", "protocol.py", "runner.py"),
    "runtime",
)
_MEASURES = (_ROOT / "measurement", *(_ROOT / "hardware" / name for name in _RUNS))
_PREPARES = (_ROOT / "datasets", _ROOT / "models" / "imagenet.py", _ROOT / "models" / "loading.py")
_PRUNES = tuple(_ROOT / "compression" / f"{name}.py" for name in _PRUNING_FILES)
_QUANTIZES = tuple(_ROOT / "compression" / f"{name}.py" for name in ("export", "quantize"))
_PREPARING_PACKAGES = (*PACKAGES, "pillow", "scikit-learn")
_QUANTIZING_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")


_source_digest = once(cache.source_digest)  # a sweep asks for each of its rows


def network_key(model: ModelSpec, weights: Weights, compression: Compression) -> str:
    """Of a network in PyTorch, pruned and with its parameters. Raises ModelError for a source not found."""
    asked = [
        *(asdict(model)[name] for name in ("factory", "input_shape", "arguments")),
        *(weights.origin, weights.sha256, weights.finetuning),
        asdict(compression),
    ]
    # What fine-tuning has pruned is in its file; only removing the channels is left to do.
    is_pruned_here = compression.technique != "dense" and not (weights.finetuning and not compression.shrunk)
    prunes = _source_digest(_PRUNES) if is_pruned_here else ""
    return cache.digest(json.dumps(asked, sort_keys=True), cache.hash_files(source_files(model)), prunes)


def quantized_key(network: str, precision: str, activations: str, images: str, count: int) -> str:
    """Of a network in 8-bit integers. images: the key of what it is calibrated on, empty for noise."""
    asked = [network, precision, activations, images, count, _versions(_QUANTIZING_PACKAGES)]
    return cache.digest(json.dumps(asked), _source_digest(_QUANTIZES))


def artifact_key(cell: Cell, network: str, quantized: str, target: Target, choices: str = "") -> str:
    """Of a compiled network: the cell, the compiler's settings, our code, versions.

    network and quantized: the keys of what is compiled, the latter empty for floats. choices: the digest of
    what a search chose for it, empty for nothing.
    """
    compiler = asdict(target.compiler)
    del compiler["int8_activations"]  # it is in `quantized`, and nothing to floats
    asked = [
        *(network, quantized, cell.dataset, cell.precision, cell.format, cell.algorithm, cell.tuning),
        compiler,
        choices,
        _versions(target.packages),
    ]
    return cache.digest(json.dumps(asked, sort_keys=True), _source_digest(_COMPILES))


def images_key(data: Data, model: ModelSpec, split: str, count: int) -> str:
    """Of images as a network takes them: the data, how they are prepared, which and how many."""
    # Networks for ImageNet have preprocessing of their own; the others' is their dataset's.
    owner = model.factory if data.name == "imagenet" else ""
    shape = model.input_shape[1:]
    asked = [data.name, data.sha256, shape, owner, split, count, _versions(_PREPARING_PACKAGES)]
    return cache.digest(json.dumps(asked), _source_digest(_PREPARES))


def reference_key(images: str, network: str, quantized: str) -> str:
    """Of what the network that is the oracle makes of those images, in float32 where `quantized` is empty."""
    return cache.digest(images, network, quantized)


def row_key(artifact: str, target: Target, image_id: str, reference: str) -> str:
    """Of a measurement: the artifact's key, where it runs, and the code that runs, times and checks it.

    reference: the key of what its accuracy rests on, empty without one.
    """
    board = asdict(target.board)
    del board["host"]  # its name on the network: the board is who it is by its fingerprint
    asked = json.dumps([board, asdict(target.bounds), asdict(target.gpu)], sort_keys=True)
    return cache.digest(artifact, asked, image_id, str(WARMUPS), reference, _source_digest(_MEASURES))


@once
def commit() -> str:
    """Of this dlas, with `-dirty` behind it where its files were changed since; empty outside of git."""
    if not (_ROOT.parent / ".git").exists() or which("git") is None:
        return ""
    told = run(
        ["git", "-C", str(_ROOT.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return told.stdout.strip()


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of these packages and Python. One that is not there has none: what needs it says so."""

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return ""

    return {name: version_of(name) for name in packages} | {
        "python": ".".join(platform.python_version_tuple()[:2])
    }
