"""The back end for OpenCL on this CPU, by PoCL: what it computes, what it keeps, and how it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import DeviceError
from dlas.hardware.device import LocalDevice
from dlas.hardware.runner import Runner, build_runner
from dlas.values import Gpu, Job
from tests.hardware import gpus
from tests.hardware.gpus import OPENCL, Said, a_job
from tests.integration.needs import POCL

pytestmark = pytest.mark.opencl

Ask = Callable[..., Said]
STATUS = "/proc/self/status"
BINARY = b"poclbin"  # so PoCL's begin


@pytest.fixture(scope="session")
def opencl_program(artifacts: Path) -> Runner:
    return build_runner(OPENCL, artifacts)


@pytest.fixture(scope="session")
def opencl_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("opencl") / "model.so"
    gpus.export_network(OPENCL, path, code=lambda source: source)
    return path


@pytest.fixture(scope="session")
def pocl_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PoCL's own, of what it compiled."""
    return str(tmp_path_factory.mktemp("pocl"))


@pytest.fixture
def ask(opencl_program: Runner, pocl_cache: str, tmp_path: Path) -> Ask:
    """One job to the runner."""

    def ask(
        job: Job, gpu: Gpu = OPENCL.gpu, kernels: str = "", name: str = "job", **environment: str
    ) -> Said:
        target, environment = replace(OPENCL, gpu=gpu), {"POCL_CACHE_DIR": pocl_cache} | environment
        return gpus.ask(opencl_program, target, job, tmp_path / name, kernels, **environment)

    return ask


def test_a_network_is_right_on_a_device(opencl_program: Runner, opencl_module: Path, tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    kernels = tmp_path / "kernels"
    device = LocalDevice(
        OPENCL, opencl_program, tmp_path / "jobs", str(tmp_path / "lock"), wait_s=20, kernels=str(kernels)
    )
    job = a_job(opencl_module, count=5, repeats=7, warmups=3)
    result = device.run(job)
    np.testing.assert_array_equal(result.outputs, gpus.expected(job.inputs))
    assert result.output_stable
    assert result.gpu.startswith(f"{POCL}, ")
    (kept,) = kernels.iterdir()
    kept.unlink()
    with device.session(60) as session:
        for rows in (1, 100):
            job = a_job(opencl_module, rows=rows)
            np.testing.assert_array_equal(session.run(job).outputs, gpus.expected(job.inputs))
        assert kept.is_file()
        with pytest.raises(DeviceError, match="no OpenCL device 'Mali'"):
            replace(device, target=replace(OPENCL, gpu=Gpu("Mali"))).run(job)


@pytest.mark.parametrize("timer", ["wall", "events"])
def test_each_timer_gives_every_sample(ask: Ask, opencl_module: Path, timer: str) -> None:
    job = a_job(opencl_module, repeats=150, warmups=5)
    said = ask(job, Gpu(POCL, timer))
    np.testing.assert_array_equal(said.outputs(job), gpus.expected(job.inputs))
    assert (len(said.fields["samples_ns"]), len(said.fields["warmup_ns"])) == (150, 5)
    assert min(said.fields["samples_ns"]) > 0
    assert said.log == ""


def resident(said: Said) -> int:
    """KiB of memory that the runner has at its end."""
    (found,) = re.findall(r"VmRSS:\s+(\d+) kB", said.fields["after"][STATUS])
    return int(found)


@pytest.mark.parametrize("timer", ["wall", "events"])
def test_thousands_of_runs_take_no_more_memory(ask: Ask, opencl_module: Path, timer: str) -> None:
    def resident_kib(runs: int) -> int:
        job = a_job(opencl_module, count=runs, repeats=2 * runs, warmups=runs, observe=(STATUS,))
        said = ask(job, Gpu(POCL, timer))
        np.testing.assert_array_equal(said.outputs(job), gpus.expected(job.inputs))
        return resident(said) - said.outputs(job).nbytes // 1024

    resident_kib(1)  # what compiles the kernels takes more
    assert resident_kib(4000) < resident_kib(50) + 4096


def test_room_inside_a_function_is_used_again(ask: Ask, tmp_path: Path) -> None:
    module = tmp_path / "model.so"
    gpus.export_wide(OPENCL, module, lambda source: source, rows=1 << 10, inside=True)

    def resident_kib(runs: int) -> int:
        job = a_job(module, repeats=runs, warmups=2, observe=(STATUS,))
        said = ask(job)
        sums = np.broadcast_to(4 * job.inputs.sum(axis=1), job.output_shape)
        np.testing.assert_allclose(said.outputs(job)[0], sums, rtol=1e-5, atol=1e-5)
        return resident(said)

    resident_kib(1)
    assert resident_kib(200) < resident_kib(1) + 4096  # a buffer is 256 KiB


def test_two_processes_at_once_are_right(ask: Ask, opencl_module: Path) -> None:
    jobs = [a_job(opencl_module, count=count, repeats=500, warmups=2) for count in (20, 21)]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda job: ask(job, name=f"job{len(job.inputs)}"), jobs))
    for job, each in zip(jobs, said, strict=True):
        np.testing.assert_array_equal(each.outputs(job), gpus.expected(job.inputs))


class Kept:
    """Jobs that keep their compiled kernels in a folder."""

    def __init__(self, ask: Ask, module: Path, folder: Path) -> None:
        self._ask, self._job, self.folder = ask, a_job(module), folder

    def ask(self, module: Path | None = None) -> Said:
        return self._ask(replace(self._job, module=module or self._job.module), kernels=str(self.folder))

    def run(self, module: Path | None = None) -> Said:
        """One whose outputs are right."""
        said = self.ask(module)
        np.testing.assert_array_equal(said.outputs(self._job), gpus.expected(self._job.inputs))
        return said

    @property
    def file(self) -> Path:
        (found,) = self.folder.iterdir()
        return found


@pytest.fixture
def kept(ask: Ask, opencl_module: Path, tmp_path: Path) -> Kept:
    return Kept(ask, opencl_module, tmp_path / "kernels")


def test_compiled_kernels_are_kept_and_taken(kept: Kept) -> None:
    assert kept.run().log == ""
    before = kept.file.stat()
    assert kept.run().log == ""
    after = kept.file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # not written anew


def test_what_is_kept_is_what_runs(kept: Kept, tmp_path: Path) -> None:
    kept.run()
    mine = kept.file
    begin = mine.read_bytes().partition(BINARY)[0]
    other = tmp_path / "other.so"
    gpus.export_network(OPENCL, other, code=lambda source: source.replace("x_ptr[", "2 * x_ptr["))
    said, job = kept.ask(other), a_job(other)
    twice = 2 * job.inputs
    np.testing.assert_array_equal(said.outputs(job), (twice + gpus.ROW) * twice)
    (theirs,) = set(kept.folder.iterdir()) - {mine}
    mine.write_bytes(gpus.seal(begin[8:] + BINARY + theirs.read_bytes().partition(BINARY)[2]))
    np.testing.assert_array_equal(kept.ask().outputs(job), said.outputs(job))


def test_another_network_has_another_file(kept: Kept, tmp_path: Path) -> None:
    kept.run()
    other = tmp_path / "other.so"
    gpus.export_network(OPENCL, other, code=lambda source: f"// another\n{source}")
    assert kept.run(other).log == ""
    assert len(list(kept.folder.iterdir())) == 2


def flip(contents: bytes) -> bytes:
    return contents[:-100] + bytes([contents[-100] ^ 1]) + contents[-99:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda contents: b"",
    "half": lambda contents: contents[: len(contents) // 2],
    "all but a byte": lambda contents: contents[:-1],
    "a bit is another": flip,
    "too much": lambda contents: contents + b"\0",
    "noise": lambda contents: bytes(range(256)) * 300,
    "of another device": lambda contents: contents.replace(POCL.encode(), POCL[::-1].encode()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_is_not_whole_is_not_used_and_made_anew(kept: Kept, name: str) -> None:
    kept.run()
    good = kept.file.read_bytes()
    kept.file.write_bytes(DAMAGES[name](good))
    assert kept.file.read_bytes() != good
    assert kept.run().log == f"opencl: {kept.file} is not whole, its kernels are compiled anew\n"
    assert kept.run().log == ""


def test_kernels_that_the_driver_does_not_take_are_compiled_anew(kept: Kept, tmp_path: Path) -> None:
    kept.run()
    contents = kept.file.read_bytes()
    kept.file.write_bytes(gpus.seal(contents[8 : contents.index(BINARY)] + b"of another driver"))
    assert "opencl: kept kernels do not load, they are compiled anew: OpenCL error -42" in kept.run().log
    assert kept.run().log == ""


def test_a_folder_that_cannot_be_written_costs_only_the_next_compilation(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "no" / "parent"):
        kept.folder = folder
        for _ in range(2):
            assert kept.run().log == f"opencl: compiled kernels cannot be kept in {folder}\n"


def test_two_processes_may_keep_the_same_kernels_at_once(kept: Kept, ask: Ask, opencl_module: Path) -> None:
    def run(number: int) -> Said:
        return ask(a_job(opencl_module), kernels=str(kept.folder), name=f"job{number}")

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(run, range(4)))
    assert [(each.error, each.log) for each in said] == [("", "")] * 4
    assert kept.file.suffix == ".bin"


def test_a_device_that_is_not_there_is_named_with_those_that_are(ask: Ask, opencl_module: Path) -> None:
    said = ask(a_job(opencl_module), Gpu("Mali")).error
    assert said.startswith(f"RuntimeError: there is no OpenCL device 'Mali', there are {POCL}, ")


def test_any_device_will_do_where_none_is_asked_for(ask: Ask, opencl_module: Path) -> None:
    job = a_job(opencl_module)
    np.testing.assert_array_equal(ask(job, Gpu("")).outputs(job), gpus.expected(job.inputs))


def test_without_a_device_that_is_said(ask: Ask, opencl_module: Path, tmp_path: Path) -> None:
    (tmp_path / "vendors").mkdir()
    said = ask(a_job(opencl_module), OCL_ICD_VENDORS=str(tmp_path / "vendors"))
    assert said.error == "RuntimeError: there is no OpenCL device at all"


@pytest.mark.parametrize(
    ("source", "message"),
    [(None, "libOpenCL.so.1: file too short"), ("int x;", "it has no function clGetPlatformIDs")],
)
def test_without_a_driver_that_is_said(
    ask: Ask, opencl_module: Path, tmp_path: Path, source: str | None, message: str
) -> None:
    library = tmp_path / "libOpenCL.so.1"
    library.touch()
    if source:
        gpus.link(library, source)
    said = ask(a_job(opencl_module), LD_LIBRARY_PATH=str(tmp_path))
    assert said.error.startswith("RuntimeError: there is no OpenCL driver: ")
    assert said.error.endswith(message)


@pytest.mark.parametrize("inside", [False, True])
def test_a_buffer_that_the_device_has_no_room_for(ask: Ask, tmp_path: Path, inside: bool) -> None:
    gpus.export_wide(OPENCL, tmp_path / "model.so", lambda source: source, 1 << 32, inside)
    assert ask(a_job(tmp_path / "model.so")).error == (
        f"RuntimeError: a buffer of {1 << 40} bytes: "
        "OpenCL error -61: a buffer larger than the device can have"
    )


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            b"__kernel",
            b"__kermel",
            r"compiling the kernels: OpenCL error -11: the kernels do not compile\n.*__kermel",
        ),
        (b"add_kernel(", b"ADD_kernel(", r"add_kernel: OpenCL error -46: there is no such kernel"),
    ],
)
def test_a_source_that_is_wrong(
    ask: Ask, opencl_module: Path, tmp_path: Path, right: bytes, wrong: bytes, message: str
) -> None:
    module = tmp_path / "model.so"
    module.write_bytes(opencl_module.read_bytes().replace(right, wrong))
    assert re.match(f"RuntimeError: {message}", ask(a_job(module)).error, re.DOTALL)


def test_kernels_that_are_damaged_are_refused(ask: Ask, opencl_module: Path, tmp_path: Path) -> None:
    library, module = opencl_module.read_bytes(), tmp_path / "model.so"
    kernels = gpus.find_kernels(library, "cl")
    count = len("cl") + 8
    damaged = kernels[:count] + b"\xff" * 8 + kernels[count + 8 :]
    module.write_bytes(library.replace(kernels, damaged))
    assert "the kernels are damaged: 18446744073709551615 elements" in ask(a_job(module)).error


def test_more_threads_than_a_group_can_have(ask: Ask, tmp_path: Path) -> None:
    def limited(source: str) -> str:
        return source.replace("__kernel", "__kernel __attribute__((reqd_work_group_size(1, 1, 1)))")

    gpus.export_network(OPENCL, tmp_path / "model.so", limited)
    assert ask(a_job(tmp_path / "model.so")).error == (
        "RuntimeError: add_kernel, 2x1x1 groups of 128x1x1 threads: "
        "OpenCL error -54: more threads in a group than the kernel can have"
    )


def test_a_timer_that_is_none(ask: Ask, opencl_module: Path) -> None:
    assert ask(a_job(opencl_module), Gpu(POCL, "clock")).error == "ValueError: there is no timer 'clock'"
