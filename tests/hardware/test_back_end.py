"""The back ends in Python's own TVM, each in a process of its own: none can be taken out of it again."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dlas.hardware import back_end
from dlas.hardware.runner import build_runner
from dlas.values import Target
from tests.hardware import gpus
from tests.hardware.test_cuda import cubin, driver  # noqa: F401, one is a fixture

SCRIPT = """
import sys
import numpy as np
import tvm
from tvm import relax
from dlas.hardware import back_end
from tests.hardware import gpus
if not tvm.device(sys.argv[1]).exist:
    back_end.autoload()
device = tvm.device(sys.argv[1])
machine = relax.VirtualMachine(tvm.runtime.load_module(sys.argv[2]), [device, tvm.cpu()])
x = np.random.default_rng(0).standard_normal((9, gpus.WIDTH)).astype("float32")
for _ in range(3):
    y = machine["main"](tvm.runtime.tensor(x, device)).numpy()
    np.testing.assert_array_equal(y, gpus.expected(x))
print(device.device_name)
"""


def run_in_python(target: Target, artifacts: Path, module: Path, **environment: str) -> str:
    """The name of the device that the module ran on in TVM's own virtual machine."""
    folder = build_runner(target, artifacts).folder
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, target.processor, str(module)],
        env=os.environ | {back_end.FOLDER: str(folder), "PYTHONPATH": os.getcwd()} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


@pytest.mark.opencl
def test_pythons_tvm_runs_a_module_on_opencl(artifacts: Path, tmp_path: Path) -> None:
    module = tmp_path / "model.so"
    gpus.export_network(gpus.OPENCL, module, lambda source: source)
    assert "pthread" in run_in_python(gpus.OPENCL, artifacts, module, POCL_CACHE_DIR=str(tmp_path))


def test_pythons_tvm_runs_a_module_on_cuda(
    artifacts: Path,
    driver: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    module = tmp_path / "model.so"
    gpus.export_network(gpus.CUDA, module, lambda source: cubin(72))
    assert run_in_python(gpus.CUDA, artifacts, module, LD_LIBRARY_PATH=str(driver)) == "Fake Xavier"


def test_without_the_variable_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(back_end.FOLDER, raising=False)
    back_end.autoload()


def test_a_folder_without_back_ends_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(back_end.FOLDER, str(tmp_path))
    with pytest.raises(ImportError, match=f"{tmp_path}, which has no libdlas_"):
        back_end.autoload()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is no back end of dlas"),
        (b"dlas back end for TVM 0.1.0\0", r"is built for TVM 0\.1\.0, here is \d"),
        (
            f"dlas back end for TVM {version('apache-tvm').split('.post')[0]}\0".encode(),
            "file too short|invalid ELF header",
        ),
    ],
)
def test_a_library_for_another_tvm_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, contents: bytes, message: str
) -> None:
    (tmp_path / "libdlas_cuda.so").write_bytes(contents)
    monkeypatch.setenv(back_end.FOLDER, str(tmp_path))
    with pytest.raises(ImportError, match=message):
        back_end.autoload()
