"""Boards over ssh, all of them this machine, and what runs on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.hardware import engine as engines
from dlas.hardware import lock, targets
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.image import build_image
from dlas.hardware.reach import Access, docker_device
from dlas.hardware.runner import build_runner
from dlas.values import ContainerImage, Target
from tests.hardware.conftest import evil, expected, job, module, untimed  # noqa: F401, these are fixtures
from tests.integration.board import Board, Neighbourhood


@pytest.fixture(scope="module")
def neighbourhood(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbourhood]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOCKER_HOST", raising=False)
        yield Neighbourhood(tmp_path_factory.mktemp("ssh"), patch)


@pytest.fixture(scope="module")
def standing_board(neighbourhood: Neighbourhood) -> Iterator[Board]:
    with neighbourhood.board("dlas-board") as board:
        yield board


@pytest.fixture
def board(standing_board: Board) -> Iterator[Board]:
    """A board whose engine is this machine's. A test may stop it."""
    yield standing_board
    standing_board.stop()
    standing_board.start()


@pytest.fixture(scope="session")
def target() -> Target:
    """A board of this machine's kind; its name, and so its image's tag, is that of no other session."""
    name = f"test_board_{os.getpid()}"
    return replace(targets.load("x86"), name=name, aliases=("tb",), detected="")


@pytest.fixture(scope="session")
def image(target: Target, artifacts: Path, base: str) -> Iterator[ContainerImage]:
    """The target's, on this machine's engine."""
    yield build_image(target, artifacts, base, print)
    engines.at().remove_image(target.image_tag)


@pytest.fixture(scope="module")
def machine_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What jobs lock is the tests' own, so that they wait for nobody else's."""
    folder = tmp_path_factory.mktemp("machine") / "lock"
    folder.mkdir(mode=0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "MACHINE", str(folder))
        yield str(folder)


@pytest.fixture(scope="module")
def remote(
    standing_board: Board, target: Target, image: ContainerImage, machine_lock: str, artifacts: Path
) -> DockerDevice:
    """The board as a device, over ssh."""
    access = Access("docker", host=standing_board.host, wait_s=0)
    found, said = docker_device(target, access, artifacts, print)
    assert (found.image, found.emulated) == (image, False)
    assert f"at {standing_board.host}" in said
    return found


@pytest.fixture
def local(target: Target, artifacts: Path, tmp_path: Path) -> LocalDevice:
    """This machine without a container, and with a lock of its own."""
    (tmp_path / "lock").mkdir()
    program = build_runner(target, artifacts)
    return LocalDevice(target, program, tmp_path / "jobs", str(tmp_path / "lock"), wait_s=0)


@pytest.fixture
def root(tmp_path: Path, artifacts: Path) -> Path:
    """An artifacts root with its own results, and what is made once for all tests."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in ("modules", "quantized", "runner"):
        (artifacts / name).mkdir(exist_ok=True)
        (folder / name).symlink_to(artifacts / name)
    return folder
