"""From a network to an artifact: import, lower, compile, link."""

from __future__ import annotations

import errno
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
from tvm.support.cc import create_shared

from dlas import cache
from dlas.errors import BuildError
from dlas.systems import census, passes
from dlas.systems.artifact import hash_data, write_manifest
from dlas.systems.frontend import Imported
from dlas.values import PACKAGES, Artifact, Cell, Compiler, Contents, Target

# LLVM's own unrolling of a filter's loops keeps inputs of several taps at once, more than 32 registers hold:
# up to 105 accesses of the stack beside 144 multiply-adds. What is to be unrolled, the schedules unroll.
_KEEP_LOOPS = ("-unroll-threshold:uint=0", "-unroll-threshold-aggressive:uint=0")


def build(
    imported: Imported,
    contents: Contents,
    cell: Cell,
    target: Target,
    key: str,
    folder: Path,
) -> Artifact:
    """Compile a network for a target into an empty folder.

    key names all that the artifact is made from. Raises UsageError, ModelError, ScheduleError, BuildError, or
    StorageError for a full disk.
    """
    started = time.monotonic()
    lowered, operators = passes.lower(
        imported.mod, cell.algorithm, cell.tuning, target.compiler, cell.precision, cell.format
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
        versions={name: version(name) for name in PACKAGES},
        stage_seconds=seconds,
    )
    write_manifest(artifact, cell, target)
    return artifact


def export(lowered: tvm.IRModule, compiler: Compiler, path: Path) -> dict[str, float]:
    """Make scheduled functions a shared library; returns the seconds of the stages `compile` and `link`.

    Raises BuildError, or StorageError for a full disk.
    """
    if shutil.which(compiler.cxx) is None:
        raise BuildError(f"there is no compiler {compiler.cxx}", "install it; Debian's package has its name")
    objects: list[str] = []
    try:
        with TemporaryDirectory() as folder:
            started = time.monotonic()
            executable = generate(lowered, compiler)
            executable.export_library(
                str(path), fcompile=lambda _, files: objects.extend(files), workspace_dir=folder
            )
            linking = time.monotonic()
            create_shared(str(path), objects, cc=compiler.cxx)
            return {"compile": linking - started, "link": time.monotonic() - linking}
    except Exception as error:  # code generation and the linker raise many kinds, none of them ours
        words = " ".join(str(error).split())
        full = os.strerror(errno.ENOSPC)
        if full in words:  # the linker's words, with or without an OSError around them
            raise cache.storage_error(path.parent.parent, OSError(errno.ENOSPC, full)) from error
        raise BuildError(
            f"compiling for {compiler.mcpu} failed: {words[:300]}", "see the cell's log"
        ) from error


def generate(lowered: tvm.IRModule, compiler: Compiler) -> Any:
    """Optimized code for scheduled functions: a `tvm.relax.VMExecutable`.

    The functions do not check their arguments, for main makes them, and checks type and shape of its own. In
    DenseNet161 the checks were four fifths of the code, and took two thirds of the time to compile it.
    """
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return tvm.compile(lowered, llvm_target(compiler))


def llvm_target(compiler: Compiler) -> tvm.target.Target:
    """The TVM target of a CPU."""
    description: dict[str, object] = {"kind": compiler.kind, "mcpu": compiler.mcpu}
    if compiler.mtriple:
        description["mtriple"] = compiler.mtriple
    if compiler.mattr:
        description["mattr"] = list(compiler.mattr)
    if compiler.kind == "llvm" and compiler.arch == "aarch64":
        description["cl-opt"] = list(_KEEP_LOOPS)
    return tvm.target.Target(description)
