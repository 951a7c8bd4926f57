"""OpenCL on this CPU, as a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlas.hardware import targets
from dlas.hardware.device import LocalDevice
from dlas.hardware.runner import build_runner


@pytest.fixture(scope="session")
def pocl(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalDevice:
    """With a lock of its own: the tests wait for nobody but each other."""
    target, folder = targets.load("opencl_pocl"), tmp_path_factory.mktemp("pocl")
    return LocalDevice(target, build_runner(target, artifacts), folder / "jobs", str(folder), wait_s=600)
