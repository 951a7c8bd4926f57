"""From a network to an artifact: import, lower, compile, link."""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from dlas import cache
from dlas.errors import BuildError
from dlas.systems import frontend, passes
from dlas.systems.artifact import hash_data, write_manifest
from dlas.values import PACKAGES, Artifact, Cell, Compiler, Target


def build(
    module: Any,
    x: np.ndarray,
    oracle: np.ndarray,
    trained: bool,
    cell: Cell,
    target: Target,
    key: str,
    folder: Path,
) -> Artifact:
    """Compile a network for a target into an empty folder.

    module is a torch.nn.Module, x its float32 input, oracle PyTorch's output for that; key names all that
    the artifact is made from. Raises ModelError, ScheduleError or BuildError.
    """
    started = time.monotonic()
    mod = frontend.to_relax(module, x)
    lowered, operators = passes.lower(mod, cell.algorithm, cell.tuning, target.compiler)
    artifact = Artifact(
        path=folder,
        key=key,
        sha256="",
        data_sha256="",
        output_shape=oracle.shape,
        trained=trained,
        ops_total=operators.total,
        ops_as_asked=operators.as_asked,
        ops_depthwise=operators.depthwise,
        fallbacks=operators.fallbacks,
        kernels=tuple(passes.called_functions(lowered)),
        versions={name: version(name) for name in PACKAGES},
        build_seconds=0.0,
    )
    export(lowered, target.compiler, artifact.module)
    np.save(folder / "input.npy", x)
    np.save(folder / "oracle.npy", oracle)
    seconds = time.monotonic() - started
    artifact = replace(
        artifact,
        sha256=cache.hash_file(artifact.module),
        data_sha256=hash_data(artifact),
        build_seconds=seconds,
    )
    write_manifest(artifact, cell, target)
    return artifact


def export(lowered: tvm.IRModule, compiler: Compiler, path: Path) -> None:
    """Generate code for scheduled functions and link it into a shared library.

    Raises BuildError, or StorageError for a full disk.
    """
    if shutil.which(compiler.cxx) is None:
        raise BuildError(f"there is no compiler {compiler.cxx}", "install it; Debian's package has its name")
    try:
        executable = tvm.compile(lowered, llvm_target(compiler))
        executable.export_library(str(path), cc=compiler.cxx)
    except Exception as error:  # code generation and the linker raise many kinds, none of them ours
        words = " ".join(str(error).split())
        full = os.strerror(errno.ENOSPC)
        if full in words:  # the linker's words, with or without an OSError around them
            raise cache.storage_error(path.parent.parent, OSError(errno.ENOSPC, full)) from error
        raise BuildError(
            f"compiling for {compiler.mcpu} failed: {words[:300]}", "see the cell's log"
        ) from error


def llvm_target(compiler: Compiler) -> tvm.target.Target:
    """The TVM target of a CPU."""
    description: dict[str, object] = {"kind": compiler.kind, "mcpu": compiler.mcpu}
    if compiler.mtriple:
        description["mtriple"] = compiler.mtriple
    if compiler.mattr:
        description["mattr"] = list(compiler.mattr)
    return tvm.target.Target(description)
