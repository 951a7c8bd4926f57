"""From a network to an artifact: import, lower, compile, link."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dlas import cache
from dlas.systems import census, passes
from dlas.systems.artifact import hash_data, write_manifest
from dlas.systems.autoschedule.workload import Choice
from dlas.systems.export import export
from dlas.systems.frontend import Imported
from dlas.values import Artifact, Cell, Contents, Target


def build(
    imported: Imported,
    contents: Contents,
    cell: Cell,
    target: Target,
    key: str,
    folder: Path,
    choices: Mapping[str, Choice] | None = None,
) -> Artifact:
    """Compile a network for a target into an empty folder.

    key names all that the artifact is made from. choices: of a tuned cell, as in `passes.lower`. Raises
    UsageError, ModelError, ScheduleError, BuildError, or StorageError for a full disk.
    """
    started = time.monotonic()
    lowered, operators = passes.lower(
        imported.mod, cell.algorithm, cell.tuning, target.compiler, cell.precision, cell.format, choices
    )
    seconds = {**contents.stage_seconds, "lower": time.monotonic() - started}
    path = folder / "model.so"
    seconds |= export(lowered, target.compiler, path)
    np.save(folder / "input.npy", imported.x)
    np.save(folder / "oracle.npy", contents.oracle)
    np.save(folder / "float32.npy", contents.float32)
    artifact = Artifact(
        path=folder,
        key=key,
        sha256=cache.hash_file(path),
        data_sha256=hash_data(folder),
        output_shape=contents.oracle.shape,
        weights=contents.weights.origin,
        weights_sha256=contents.weights.sha256,
        ops_total=operators.total,
        ops_as_asked=operators.as_asked,
        ops_depthwise=operators.depthwise,
        ops_integer=operators.integer,
        ops_sparse=operators.sparse,
        ops_tuned=operators.tuned,
        fallbacks=operators.fallbacks,
        kernels=tuple(census.called_functions(lowered)),
        level_fraction=contents.level_fraction,
        weight_sparsity_fraction=operators.weight_sparsity_fraction,
        mac_sparsity_fraction=operators.mac_sparsity_fraction,
        weight_bytes=operators.weight_bytes,
        dense_weight_bytes=operators.dense_weight_bytes,
        arithmetic=operators.arithmetic,
        layout=operators.layout,
        oracle_name=contents.oracle_name,
        calibration=contents.calibration,
        versions={name: version(name) for name in target.packages},
        stage_seconds=seconds,
    )
    write_manifest(artifact, cell, target)
    return artifact
