"""A real network, compiled once, and this machine as a target."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import EngineError
from dlas.hardware import engine as engines
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.image import build_image
from dlas.hardware.lock import lock_folder
from dlas.hardware.reach import Access, docker_device
from dlas.hardware.runner import Runner, build_runner
from dlas.values import Board, Compiler, Image, Job, Target

FEATURES = 64


@pytest.fixture(scope="session")
def host() -> Target:
    """This machine; its name is that of no shipped target, and so is its image's tag."""
    if platform.machine() != "x86_64":
        pytest.skip("the runner is built for x86-64 only")
    return Target(
        name="test_host",
        aliases=("th",),
        description="the machine of the tests",
        protocol_id="",
        compiler=Compiler("llvm", "x86_64", "x86_64-linux-gnu", "x86-64", (), 4, 16, 1 << 18, "g++"),
        board=Board(runners=("local", "docker"), threads=2),
        image=Image("docker/runner/Dockerfile", "debian:bookworm-slim", "linux/amd64"),
    )


@pytest.fixture(scope="session")
def program(host: Target, artifacts: Path) -> Runner:
    return build_runner(host, artifacts)


@pytest.fixture
def local(host: Target, program: Runner, tmp_path: Path) -> LocalDevice:
    """A device with a lock of its own: the tests wait for nobody."""
    (tmp_path / "lock").mkdir()
    return LocalDevice(host, program, tmp_path / "jobs", str(tmp_path / "lock"), wait_s=0)


def weight() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((FEATURES, FEATURES)).astype("float32")


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relu(x @ weight()) with a thread-parallel loop, as a library: x is (4, FEATURES)."""
    import tvm
    from tvm import relax, te

    def product(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, FEATURES), "k")
        total = te.compute((4, FEATURES), lambda i, j: te.sum(x[i, k] * w[k, j], k), "total")
        return te.compute((4, FEATURES), lambda i, j: te.max(total[i, j], 0.0), "relu")

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, FEATURES), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.call_te(product, x, relax.const(weight())))
        builder.emit_func_output(y)
    lowered = builder.get()
    schedule = tvm.s_tir.Schedule(lowered)
    schedule.work_on("product")
    schedule.parallel(schedule.get_loops(schedule.get_sblock("relu"))[0])
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"})
    path = tmp_path_factory.mktemp("module") / "model.so"
    tvm.compile(schedule.mod, target).export_library(str(path))
    return path


@pytest.fixture(scope="session")
def container(
    host: Target, artifacts: Path, base: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerDevice]:
    """A device with an image and a lock of its own."""
    build_image(host, artifacts, base, lambda line: None)
    found, _ = docker_device(host, Access("docker"), artifacts, lambda line: None)
    locks = lock_folder(tmp_path_factory.mktemp("locks"))
    yield replace(found, lock=str(locks), locks=locks, wait_s=0)
    with suppress(EngineError):  # another process of pytest-xdist was first
        engines.at().remove_image(host.image_tag)


@pytest.fixture
def job(module: Path) -> Job:
    """One input, timed."""
    return Job(module, inputs(1), (4, FEATURES), threads=2, repeats=7, warmups=3, timeout_s=30)


@pytest.fixture
def untimed(job: Job) -> Callable[[int], Job]:
    """A job of so many inputs, each another, of which only the outputs are wanted."""
    return lambda count: replace(job, inputs=inputs(count), repeats=0, warmups=0)


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((count, 4, FEATURES)).astype("float32")


@pytest.fixture
def expected() -> Callable[[Job], np.ndarray]:
    """What the outputs of a job must be, but for rounding."""
    return lambda job: np.maximum(job.inputs @ weight(), 0)


@pytest.fixture
def evil(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a library that runs some lines of C as soon as it is loaded."""

    def make(body: str) -> Path:
        path = tmp_path / "evil.so"
        lines = [f"#include <{name}.h>" for name in ("signal", "stdio", "stdlib", "unistd")]
        source = "\n".join([*lines, f"__attribute__((constructor)) static void act(void) {{ {body} }}\n"])
        command = ["g++", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=source.encode(), check=True)
        return path

    return make
