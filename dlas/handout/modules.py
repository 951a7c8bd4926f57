"""The artifact that a row was measured with, found by its hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlas.errors import BuildError, StorageError
from dlas.hardware import wheels
from dlas.systems import artifact
from dlas.values import Artifact, Compiler

FOLDER = "modules"


def find(artifacts: Path, sha256: str, again: str) -> tuple[Artifact, Compiler]:
    """The artifact whose model.so has this hash, and how it was compiled.

    again: how to make it again, in words. Raises StorageError where it is gone, is no longer what it was, or
    was made for another TVM than the one that is installed; BuildError where none is.
    """
    damaged: StorageError | None = None
    for path in sorted((artifacts / FOLDER).glob(f"*/{artifact.MANIFEST}")):
        facts = _facts(path)
        if facts.get("sha256") != sha256:
            continue
        try:
            found, compiler = artifact.read(path.parent), _compiler(facts)
        except BuildError as error:
            damaged = StorageError(error.cause, f"delete {path.parent}, then {again}")
            continue
        _check_versions(found, again)
        return found, compiler
    raise damaged or StorageError(f"{artifacts / FOLDER} no longer has the library that was measured", again)


def _facts(path: Path) -> dict[str, Any]:
    """What a manifest says; of one that is damaged, which need not be the one that is looked for, nothing."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _compiler(facts: dict[str, Any]) -> Compiler:
    """Raises BuildError."""
    try:
        said = dict(facts["compiler"])
        return Compiler(**said | {"mattr": tuple(said["mattr"])})
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"its manifest does not say how it was compiled: {error}") from error


def _check_versions(found: Artifact, again: str) -> None:
    for installed in wheels.versions():
        name, _, version = installed.partition("==")
        if (made := found.versions.get(name)) != version:
            raise StorageError(f"it was compiled for {name} {made}, and {version} is installed", again)
