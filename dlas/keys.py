"""Names for what the stages make: a hash of all that goes in, known without torch, TVM or a build."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from dlas import cache
from dlas.models.sources import source_files
from dlas.values import WARMUPS, Cell, Target

_ROOT = Path(__file__).parent
_COMPILES = (_ROOT / "algorithms", _ROOT / "systems")
_MEASURES = (_ROOT / "measurement", _ROOT / "hardware" / "runtime")
_PACKAGES = ("torch", "apache-tvm", "apache-tvm-ffi", "numpy")


def artifact_key(cell: Cell, target: Target) -> str:
    """Of a compiled network: the network's source, the cell, the compiler's settings, our code, versions.

    Raises ModelError when the network's source cannot be found.
    """
    asked = [
        *(asdict(cell.model)[name] for name in ("factory", "input_shape", "arguments")),
        *(cell.dataset, cell.compression, cell.precision, cell.format, cell.algorithm, cell.tuning),
        asdict(target.compiler),
        {name: version(name) for name in _PACKAGES},
        platform.python_version_tuple()[:2],
    ]
    return cache.digest(
        json.dumps(asked, sort_keys=True),
        cache.hash_files(source_files(cell.model)),
        cache.source_digest(_COMPILES),
    )


def row_key(artifact: str) -> str:
    """Of a measurement of an artifact: the artifact's key and the code that runs, times and checks it."""
    return cache.digest(artifact, str(WARMUPS), cache.source_digest(_MEASURES))
