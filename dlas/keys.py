"""Names for what the stages make: a hash of all that goes in, known without torch, TVM or a build."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from functools import cache as once
from importlib.metadata import version
from pathlib import Path

from dlas import cache
from dlas.models.sources import source_files
from dlas.values import PACKAGES, WARMUPS, Cell, Data, ModelSpec, Target, Weights

_ROOT = Path(__file__).parent
_COMPILES = (_ROOT / "algorithms", _ROOT / "systems")
_MEASURES = (_ROOT / "measurement", _ROOT / "hardware")
_PREPARES = (_ROOT / "datasets", _ROOT / "models" / "imagenet.py", _ROOT / "models" / "loading.py")
_PREPARING_PACKAGES = (*PACKAGES, "pillow", "scikit-learn")


_source_digest = once(cache.source_digest)  # a sweep asks for each of its rows


def artifact_key(cell: Cell, weights: Weights, target: Target) -> str:
    """Of a compiled network: its source and weights, the cell, the compiler's settings, our code, versions.

    Raises ModelError when the network's source cannot be found.
    """
    asked = [
        *(asdict(cell.model)[name] for name in ("factory", "input_shape", "arguments")),
        *(weights.origin, weights.sha256),
        *(cell.dataset, cell.compression, cell.precision, cell.format, cell.algorithm, cell.tuning),
        asdict(target.compiler),
        _versions(PACKAGES),
    ]
    return cache.digest(
        json.dumps(asked, sort_keys=True),
        cache.hash_files(source_files(cell.model)),
        _source_digest(_COMPILES),
    )


def images_key(data: Data, model: ModelSpec, count: int) -> str:
    """Of the images that a network's accuracy is taken on: the data, how they are prepared, how many."""
    # Networks for ImageNet have preprocessing of their own; the others' is their dataset's.
    owner = model.factory if data.name == "imagenet" else ""
    asked = [data.name, data.sha256, model.input_shape[1:], owner, count, _versions(_PREPARING_PACKAGES)]
    return cache.digest(json.dumps(asked), _source_digest(_PREPARES))


def reference_key(images: str, model: ModelSpec, weights: Weights) -> str:
    """Of what PyTorch makes of those images."""
    asked = [model.factory, model.arguments, weights.origin, weights.sha256]
    return cache.digest(images, json.dumps(asked), cache.hash_files(source_files(model)))


def row_key(artifact: str, target: Target, image_id: str, reference: str) -> str:
    """Of a measurement: the artifact's key, where it runs, and the code that runs, times and checks it.

    reference: the key of what its accuracy rests on, empty without one.
    """
    board = json.dumps(asdict(target.board), sort_keys=True)
    return cache.digest(artifact, board, image_id, str(WARMUPS), reference, _source_digest(_MEASURES))


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in packages} | {
        "python": ".".join(platform.python_version_tuple()[:2])
    }
