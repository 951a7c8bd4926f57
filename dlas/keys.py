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
from dlas.values import PACKAGES, WARMUPS, Cell, Target

_ROOT = Path(__file__).parent
_COMPILES = (_ROOT / "algorithms", _ROOT / "systems")
_MEASURES = (_ROOT / "measurement", _ROOT / "hardware")


_source_digest = once(cache.source_digest)  # a sweep asks for each of its rows


def artifact_key(cell: Cell, target: Target) -> str:
    """Of a compiled network: the network's source, the cell, the compiler's settings, our code, versions.

    Raises ModelError when the network's source cannot be found.
    """
    asked = [
        *(asdict(cell.model)[name] for name in ("factory", "input_shape", "arguments")),
        *(cell.dataset, cell.compression, cell.precision, cell.format, cell.algorithm, cell.tuning),
        asdict(target.compiler),
        {name: version(name) for name in PACKAGES},
        platform.python_version_tuple()[:2],
    ]
    return cache.digest(
        json.dumps(asked, sort_keys=True),
        cache.hash_files(source_files(cell.model)),
        _source_digest(_COMPILES),
    )


def row_key(artifact: str, target: Target, image_id: str) -> str:
    """Of a measurement: the artifact's key, where it runs, and the code that runs, times and checks it."""
    board = json.dumps(asdict(target.board), sort_keys=True)
    return cache.digest(artifact, board, image_id, str(WARMUPS), _source_digest(_MEASURES))
