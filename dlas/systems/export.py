"""From scheduled functions to a shared library: code generation and linking."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from tvm.support.cc import create_shared

from dlas import cache
from dlas.errors import BuildError
from dlas.systems import codegen
from dlas.systems.device_code import finished
from dlas.values import Compiler

KEEP_LOOPS = "keep_loops"  # attribute of modules whose loops are to stay, on whatever processor


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
    except BuildError:
        raise
    except Exception as error:  # code generation and the linker raise many kinds, none of them ours
        words = " ".join(str(error).split())
        full = os.strerror(errno.ENOSPC)
        if full in words:  # the linker's words, with or without an OSError around them
            raise cache.storage_error(path.parent.parent, OSError(errno.ENOSPC, full)) from error
        raise BuildError(
            f"compiling for {compiler.gpu_arch or compiler.mcpu} failed: {words[:300]}", "see the cell's log"
        ) from error


def generate(lowered: tvm.IRModule, compiler: Compiler) -> Any:
    """Optimized code for scheduled functions: a `tvm.relax.VMExecutable`.

    The functions do not check their arguments, for main makes them, and checks type and shape of its own. In
    DenseNet161 the checks were four fifths of the code, and took two thirds of the time to compile it.
    """
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}), finished(compiler):
        if compiler.is_gpu:
            # TVM cannot know that what it indexes fits, and would compute all in 64 bits.
            lowered = tvm.tirx.transform.ForceNarrowIndexToInt32()(lowered)
        return tvm.compile(lowered, codegen.of(compiler, KEEP_LOOPS in (lowered.attrs or {})))


def first_line(error: Exception) -> str:
    """What TVM's error says first; the rest is its stack and the code that it is about."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
