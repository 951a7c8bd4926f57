"""The back end for CUDA over a driver that is none: what reaches it, and what is said where it refuses."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.hardware.runner import Runner, build_runner
from dlas.values import Gpu, Job
from tests.hardware import gpus
from tests.hardware.gpus import CUDA, Said, a_job

Ask = Callable[..., Said]


def cubin(architecture: int) -> bytes:
    """An ELF header that says for which GPU it is, and nothing behind it."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 190, 1, 0, 0, 0, architecture, 64, 0, 0, 0, 0, 0)


@pytest.fixture(scope="session")
def cuda_program(artifacts: Path) -> Runner:
    return build_runner(CUDA, artifacts)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake driver."""
    folder = tmp_path_factory.mktemp("driver")
    gpus.link(folder / "libcuda.so.1", (Path(__file__).parent / "fake_cuda.c").read_text())
    return folder


@pytest.fixture(scope="session")
def cuda_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "model.so"
    gpus.export_network(CUDA, path, code=lambda source: cubin(72))
    return path


@pytest.fixture
def ask(cuda_program: Runner, driver: Path, tmp_path: Path) -> Ask:
    """One job to the runner over the fake driver, of which the environment tells how it behaves."""

    def ask(job: Job, gpu: Gpu = CUDA.gpu, **environment: str) -> Said:
        environment = {"LD_LIBRARY_PATH": str(driver)} | environment
        return gpus.ask(cuda_program, replace(CUDA, gpu=gpu), job, tmp_path / "job", **environment)

    return ask


def test_inputs_go_to_the_device_and_outputs_come_back(ask: Ask, cuda_module: Path) -> None:
    job = a_job(cuda_module, count=5)
    said = ask(job)
    np.testing.assert_array_equal(said.outputs(job), gpus.expected(job.inputs))
    assert said.fields["gpu"] == "CUDA, Fake Xavier, sm_72, driver for CUDA 11.4"
    assert said.fields["output_stable"]
    assert said.log == ""


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (100, 7)])
def test_extents_and_arguments_are_those_that_tvm_gave(
    ask: Ask, cuda_module: Path, tmp_path: Path, rows: int, blocks: int
) -> None:
    job = a_job(cuda_module, rows=rows)
    said = ask(job, FAKE_CUDA_LOG=str(tmp_path / "log"))
    np.testing.assert_array_equal(said.outputs(job), gpus.expected(job.inputs))
    launches = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("launch")]
    extents = f"grid {blocks} 1 1, block 1024 1 1, shared 0, {rows * 64} elements in {rows} rows"
    assert launches[:2] == [f"launch add_kernel, {extents}", f"launch multiply_kernel, {extents}"]
    assert launches == launches[:2] * (len(launches) // 2)


def test_events_tell_what_the_kernels_took(ask: Ask, cuda_module: Path) -> None:
    said = ask(a_job(cuda_module, repeats=150, warmups=3), Gpu("Xavier", "events"))
    assert said.fields["samples_ns"] == [4_000_000] * 150  # of the driver's own clock
    assert said.fields["warmup_ns"][1:] == [4_000_000] * 2


def test_the_wall_clock_is_the_hosts(ask: Ask, cuda_module: Path) -> None:
    said = ask(a_job(cuda_module, repeats=150, warmups=3), Gpu("Xavier", "wall"))
    assert len(said.fields["samples_ns"]) == 150
    assert 4_000_000 not in said.fields["samples_ns"]
    assert min(said.fields["samples_ns"]) > 0


@pytest.mark.parametrize("timer", ["wall", "events"])
def test_nothing_leaks(ask: Ask, cuda_module: Path, tmp_path: Path, timer: str) -> None:
    def kept(runs: int) -> Counter[str]:
        """How many of each are left when the job is answered; TVM gives its last buffers never back."""
        log = tmp_path / f"log{runs}"
        job = a_job(cuda_module, count=runs, repeats=runs, warmups=runs)
        assert not ask(job, Gpu("Xavier", timer), FAKE_CUDA_LOG=str(log)).error
        counts: Counter[str] = Counter()
        for line in log.read_text().splitlines():
            kind, _, change = line.partition(" ")
            counts[kind] += {"+": 1, "-": -1}.get(change, 0)
        return counts

    few = kept(2)
    assert few == kept(300)
    assert (few["event"], few["module"]) == (0, 0)
    assert 0 < few["buffer"] < 10


def test_the_device_is_the_first_that_has_the_name(ask: Ask, cuda_module: Path, tmp_path: Path) -> None:
    names, log = "Orin;Xavier A;Xavier B", tmp_path / "log"
    said = ask(a_job(cuda_module), FAKE_CUDA_DEVICES=names, FAKE_CUDA_LOG=str(log))
    assert said.fields["gpu"].startswith("CUDA, Xavier A, ")
    assert log.read_text().startswith("context of device 1\n")
    assert "CUDA, Orin, " in ask(a_job(cuda_module), Gpu(""), FAKE_CUDA_DEVICES=names).fields["gpu"]


def test_a_device_that_is_not_there_is_named_with_those_that_are(ask: Ask, cuda_module: Path) -> None:
    said = ask(a_job(cuda_module), Gpu("H100"), FAKE_CUDA_DEVICES="Orin;Xavier A")
    assert said.error == "RuntimeError: there is no CUDA device 'H100', there are Orin; Xavier A"
    said = ask(a_job(cuda_module), FAKE_CUDA_DEVICES="")
    assert said.error == "RuntimeError: there is no CUDA device at all"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("cuInit=100", "starting the CUDA driver: CUDA_ERROR_NO_DEVICE"),
        ("cuDevicePrimaryCtxRetain=2", "Fake Xavier: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuMemAlloc_v2=2", "a buffer of 1024 bytes: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuMemcpyHtoDAsync_v2=201", "writing to the device: CUDA_ERROR_INVALID_CONTEXT"),
        ("cuMemcpyDtoHAsync_v2=201", "reading from the device: CUDA_ERROR_INVALID_CONTEXT"),
        ("cuStreamSynchronize=719", "copying: 719"),
        ("cuEventCreate=2", "an event: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuModuleGetFunction=500", "add_kernel: CUDA_ERROR_NOT_FOUND"),
        (
            "cuLaunchKernel=701",
            "add_kernel, 1x1x1 groups of 1024x1x1 threads: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        ),
    ],
)
def test_what_fails_is_said_in_one_line(ask: Ask, cuda_module: Path, failure: str, message: str) -> None:
    said = ask(a_job(cuda_module, repeats=1, warmups=2), FAKE_CUDA_FAIL=failure)
    assert said.error == f"RuntimeError: {message}"
    assert said.fields["exit_code"] == 1


def test_a_buffer_that_the_device_has_no_room_for(ask: Ask, tmp_path: Path) -> None:
    gpus.export_wide(CUDA, tmp_path / "model.so", lambda source: cubin(72), rows=1 << 32)
    said = ask(a_job(tmp_path / "model.so"))
    assert said.error == f"RuntimeError: a buffer of {1 << 40} bytes: CUDA_ERROR_OUT_OF_MEMORY"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (cubin(87), "sm_72, driver for CUDA 11.4: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        (b'extern "C" __global__ void add_kernel() {}', "compile their CUDA C++ on the host"),
    ],
    ids=["another architecture", "source"],
)
def test_code_that_is_not_for_the_device(ask: Ask, tmp_path: Path, code: bytes, message: str) -> None:
    gpus.export_network(CUDA, tmp_path / "model.so", code=lambda source: code)
    assert ask(a_job(tmp_path / "model.so")).error.endswith(message)


@pytest.mark.parametrize(
    ("source", "message"), [(None, "libcuda.so.1: file too short"), ("int x;", "it has no function cuInit")]
)
def test_without_a_driver_that_is_said(
    ask: Ask, cuda_module: Path, tmp_path: Path, source: str | None, message: str
) -> None:
    library = tmp_path / "libcuda.so.1"
    library.touch()
    if source:
        gpus.link(library, source)
    said = ask(a_job(cuda_module), LD_LIBRARY_PATH=str(tmp_path))
    assert said.error.startswith("RuntimeError: there is no CUDA driver: ")
    assert said.error.endswith(message)


def test_a_timer_that_is_none(ask: Ask, cuda_module: Path) -> None:
    assert ask(a_job(cuda_module), Gpu("", "clock")).error == "ValueError: there is no timer 'clock'"
