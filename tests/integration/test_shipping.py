"""Boards with an engine of their own that has nothing yet: what is shipped there, and what can go wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import EngineError
from dlas.hardware import bases
from dlas.hardware import engine as engines
from dlas.hardware.engine import Engine
from dlas.hardware.reach import Access, docker_device
from dlas.values import ContainerImage, Job, Target
from tests.hardware.engines import clean_engine
from tests.integration.board import Board, Neighbourhood

pytestmark = [pytest.mark.docker, pytest.mark.board, pytest.mark.usefixtures("machine_lock")]

SMALL_MIB = 16  # less than the image, and more than an engine needs


@pytest.fixture(scope="module")
def empty_board(
    neighbourhood: Neighbourhood, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Board, Engine]]:
    """A board with an engine without images, and that engine without the way there."""
    with (
        clean_engine(tmp_path_factory.mktemp("engine")) as engine,
        neighbourhood.board("dlas-empty", engine.host) as board,
    ):
        yield board, engine


def test_an_image_that_is_neither_there_nor_here_is_named(
    empty_board: tuple[Board, Engine], target: Target, artifacts: Path
) -> None:
    absent = replace(target, name="test_absent")
    host = empty_board[0].host
    with pytest.raises(EngineError, match=f"test_absent: image absent at {host}, and not here; ") as failure:
        docker_device(absent, Access("docker", host), artifacts, print)
    assert failure.value.next_step == "run inv build --target tb"


def test_an_image_that_is_here_is_shipped_once_and_runs(
    empty_board: tuple[Board, Engine],
    target: Target,
    image: ContainerImage,
    artifacts: Path,
    job: Job,
    expected: Callable[[Job], np.ndarray],
) -> None:
    board, engine = empty_board
    said: list[str] = []
    device, line = docker_device(target, Access("docker", board.host), artifacts, said.append)
    assert said == [f"{target.name}: shipping its image to {board.host} ({image.size_bytes / 1e6:.0f} MB)"]
    assert device.image == image == engine.find_image(target.image_tag)
    assert board.host in line
    np.testing.assert_allclose(device.run(job).outputs, expected(job), rtol=1e-4, atol=1e-4)
    assert engine.jobs() == ()
    again, _ = docker_device(target, Access("docker", board.host), artifacts, said.append)
    assert (again.image, len(said)) == (image, 1)


def test_an_image_of_another_runner_is_shipped_anew(
    empty_board: tuple[Board, Engine], target: Target, image: ContainerImage, artifacts: Path, tmp_path: Path
) -> None:
    board, engine = empty_board
    archive = tmp_path / "other.tar"
    (tmp_path / "empty").mkdir()
    own = engines.at()
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {image.id}\nLABEL {engines.RUNNER_LABEL}=of-an-older-version\n")
    tag = f"{target.image_tag}_older"
    build = own.command("build", f"--file={dockerfile}", f"--tag={tag}", str(tmp_path / "empty"))
    subprocess.run(build, env=os.environ | bases.builder(own), check=True)
    own.ask("save", f"--output={archive}", tag)
    own.remove_image(tag)
    engine.ask("load", f"--input={archive}")
    engine.tag_image(tag, target.image_tag)
    device, _ = docker_device(target, Access("docker", board.host), artifacts, print)
    assert device.image == image == engine.find_image(target.image_tag)


def test_a_board_whose_disk_is_full_says_so_and_goes_on(
    neighbourhood: Neighbourhood,
    target: Target,
    image: ContainerImage,
    artifacts: Path,
    tmp_path: Path,
) -> None:
    assert image.size_bytes > SMALL_MIB << 20
    with (
        clean_engine(tmp_path / "engine", SMALL_MIB) as engine,
        neighbourhood.board("dlas-full", engine.host) as board,
    ):
        for _ in range(2):
            with pytest.raises(EngineError, match=r"no space .*left") as failure:
                docker_device(target, Access("docker", board.host), artifacts, print)
            assert board.host in failure.value.cause
            assert engine.facts().architecture == "x86_64"
            assert engine.find_image(target.image_tag) is None


def test_a_board_that_goes_away_before_it_has_its_image_is_named(
    neighbourhood: Neighbourhood, target: Target, image: ContainerImage, artifacts: Path, tmp_path: Path
) -> None:
    with (
        clean_engine(tmp_path / "engine") as engine,
        neighbourhood.board("dlas-leaving", engine.host) as board,
    ):
        with pytest.raises(EngineError, match=board.host):
            docker_device(target, Access("docker", board.host), artifacts, lambda line: board.stop())
        assert engine.find_image(target.image_tag) is None
        board.start()
        device, _ = docker_device(target, Access("docker", board.host), artifacts, print)
        assert device.image == image
