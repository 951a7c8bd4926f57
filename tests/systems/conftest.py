"""OpenCL on this CPU, as a device, and what is compiled for CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlas.hardware import targets
from dlas.hardware.device import LocalDevice
from dlas.hardware.runner import build_runner
from dlas.systems import cubin, device_code


@pytest.fixture(scope="session")
def pocl(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalDevice:
    """With a lock of its own: the tests wait for nobody but each other."""
    target, folder = targets.load("opencl_pocl"), tmp_path_factory.mktemp("pocl")
    return LocalDevice(target, build_runner(target, artifacts), folder / "jobs", str(folder), wait_s=600)


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> list[cubin.Cubin]:
    """What is compiled for CUDA within a test."""
    made: list[cubin.Cubin] = []

    def compile_cuda(source: str, arch: str) -> cubin.Cubin:
        made.append(cubin.compile_cuda(source, arch))
        return made[-1]

    monkeypatch.setattr(device_code, "compile_cuda", compile_cuda)
    return made
