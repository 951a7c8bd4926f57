"""What a doctor finds on a board over ssh that is well, and on boards that are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlas import doctor
from dlas.errors import DeviceError
from dlas.hardware import engine as engines
from dlas.hardware.device import DockerDevice
from dlas.hardware.reach import Access
from dlas.values import Bounds, ContainerImage, Job, Target
from tests.integration.board import Board
from tests.integration.images import image_of
from tests.integration.watching import running

pytestmark = [pytest.mark.docker, pytest.mark.board]

Examine = Callable[..., list[str]]


@pytest.fixture
def examine(standing_board: Board, remote: DockerDevice, artifacts: Path) -> Examine:
    """Has a look at a target on the board, and says the lines; they are all there is, fails or not."""

    def look(target: Target, fails: int = 0, emulate: bool = False) -> list[str]:
        lines: list[str] = []
        access = Access(host=standing_board.host, emulate=emulate)
        if fails:
            with pytest.raises(DeviceError, match=rf"{target.name}: {fails} of \d+ checks failed") as failure:
                doctor.examine(target, access, artifacts, lines.append)
            assert str(failure.value).startswith(f"{target.name}: {fails} of {len(lines)} checks failed")
        else:
            doctor.examine(target, access, artifacts, lines.append)
        states = [line.split()[0] for line in lines]
        assert set(states) <= {"ok", "failed", "skipped"}
        assert states.count("failed") == fails
        assert all("; " in line for line in lines if line.startswith("failed"))
        return lines

    return look


def failed(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("failed")]


def names(lines: list[str]) -> list[str]:
    return [line[8:22].strip() for line in lines]


def test_a_board_that_is_well_has_no_fault(examine: Examine, target: Target, image: ContainerImage) -> None:
    lines = examine(target)
    assert names(lines) == ["engine", "image", "start", "lock", "CPU set", "bounds"]
    assert "at ssh://dlas-board, x86_64" in lines[0]
    assert image.id[:19] in lines[1]
    assert "MiB free" in lines[5]


@pytest.mark.qemu
@pytest.mark.aarch64
def test_of_an_emulated_board_is_said_what_cannot_be_told(examine: Examine, artifacts: Path) -> None:
    with image_of("hikey970_neon", artifacts) as (target, image):
        lines = examine(target, emulate=True)
    assert names(lines) == ["engine", "image", "start", "lock", "state"]
    assert lines[0].endswith("aarch64 is emulated")
    assert ("stand-in" in lines[1]) == image.stand_in
    assert "an emulator on" in lines[2]
    assert lines[4].startswith("skipped")


def test_a_bound_that_does_not_hold_is_told_with_its_figure_and_a_remedy(
    examine: Examine, target: Target
) -> None:
    (line,) = failed(examine(replace(target, bounds=Bounds(least_free_mib=10**9)), fails=1))
    assert "MiB of memory free, below 1000000000 MiB; stop what else runs there" in line


def test_a_processor_of_another_kind_is_told(examine: Examine, target: Target) -> None:
    arm = replace(target, compiler=replace(target.compiler, arch="aarch64"))
    (line,) = examine(arm, fails=1)
    assert "ssh://dlas-board is x86_64, the target is aarch64" in line
    assert "--emulate" in line


def test_a_board_that_is_away_is_told_in_one_line(examine: Examine, target: Target, board: Board) -> None:
    board.stop()
    (line,) = examine(target, fails=1)
    assert names([line]) == ["engine"]
    assert "Connection refused" in line
    assert line.endswith("; see that `docker --host ssh://dlas-board version` answers")


def test_an_image_that_is_absent_is_told(examine: Examine, target: Target) -> None:
    lines = examine(replace(target, name="test_absent"), fails=1)
    assert names(lines) == ["engine", "image"]
    assert lines[1].endswith("; run inv build --target tb")


def test_a_container_that_was_left_is_named(
    examine: Examine, target: Target, image: ContainerImage, remote: DockerDevice
) -> None:
    left = f"{remote.name}-left"
    engines.at().ask("create", f"--name={left}", f"--label={engines.JOB_LABEL}=x", image.id, "probe")
    try:
        (line,) = failed(examine(target, fails=1))
    finally:
        engines.at().remove_container(left)
    assert names([line]) == ["containers"]
    assert left in line.split("; ")[0]
    assert f"docker --host ssh://dlas-board rm -f {left}" in line


def test_while_a_job_runs_the_lock_is_held(
    examine: Examine, target: Target, remote: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    hanging = replace(job, module=evil("for (;;) pause();"), timeout_s=300)
    with running(remote, hanging):
        (line,) = failed(examine(target, fails=1))
    assert names([line]) == ["lock"]
    assert f"({remote.name})" in line
    assert line.endswith("; wait for it")
