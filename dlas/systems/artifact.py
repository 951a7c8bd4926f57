"""Artifacts on disk: what a folder holds, said by its manifest and checked when it is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from dlas import cache
from dlas.errors import BuildError, StorageError
from dlas.values import Artifact, Cell, Target

MANIFEST = "manifest.json"
_FOR_READERS = ("cell", "compiler")  # told to who opens the file, and no part of the value


def write_manifest(artifact: Artifact, cell: Cell, target: Target) -> None:
    """Say in the artifact's folder what it is and what it was made for."""
    facts = {name: value for name, value in asdict(artifact).items() if name != "path"}
    facts |= {"cell": cell.id, "compiler": asdict(target.compiler)}
    (artifact.path / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")


def read(folder: Path) -> Artifact:
    """The artifact in a folder. Raises BuildError where manifest and library do not belong together."""
    next_step = f"delete {folder} and run the same command again"
    try:
        facts = json.loads((folder / MANIFEST).read_text())
        for name in _FOR_READERS:
            del facts[name]
        for name in ("output_shape", "fallbacks", "kernels"):
            facts[name] = tuple(facts[name])
        artifact = Artifact(path=folder, **facts)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BuildError(f"{folder / MANIFEST} is damaged: {error}", next_step) from error
    try:
        if cache.hash_file(artifact.module) == artifact.sha256 and hash_data(folder) == artifact.data_sha256:
            return artifact
    except StorageError as error:
        raise BuildError(error.cause, next_step) from error
    raise BuildError(f"{folder} does not hold what was built", next_step)


def hash_data(folder: Path) -> str:
    """Of the input and of what to compare with: a row's verdict rests on them. Raises StorageError."""
    return cache.hash_files([folder / f"{name}.npy" for name in ("input", "oracle", "float32")])
