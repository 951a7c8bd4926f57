"""OpenCL and CUDA for TVM in Python: its own wheel generates code for both, and runs none of it.

What the runner loads on a device, `import tvm` loads here, through its entry point for back ends. So a
notebook, or TVM's own RPC server, runs what was compiled for a GPU.
"""

from __future__ import annotations

import ctypes
import os
import re
from importlib.metadata import version
from pathlib import Path

FOLDER = "DLAS_BACK_ENDS"  # the variable that names the folder of a runner: `invoke build` says which
_BUILT_FOR = re.compile(rb"dlas back end for TVM (\d+(?:\.\d+)*)\0")


def autoload() -> None:
    """Load every back end in the folder that the environment names, if it names one.

    Raises ImportError for one that is missing, or was built for another TVM.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    paths = sorted(Path(folder).glob("libdlas_*.so"))
    if not paths:
        raise ImportError(f"{FOLDER} is {folder}, which has no libdlas_*.so: name the folder of a runner")
    for path in paths:
        load(path)


def load(path: Path) -> None:
    """Raises ImportError."""
    found = _BUILT_FOR.search(path.read_bytes())
    if found is None:
        raise ImportError(f"{path} is no back end of dlas: build it again")
    built_for, installed = found[1].decode(), version("apache-tvm")
    if installed.split(".post")[0] != built_for:
        raise ImportError(f"{path} is built for TVM {built_for}, here is {installed}: build it again")
    try:
        ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise ImportError(f"{path}: {error}") from error
