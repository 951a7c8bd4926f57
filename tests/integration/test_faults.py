"""What goes wrong on the way to a board: real jobs over a real ssh, and each fault made on purpose."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import DeviceBusyError, DeviceError, DeviceLostError, EngineError
from dlas.hardware import engine as engines
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.engine import Engine
from dlas.values import Job
from tests.integration.board import Board, Neighbourhood
from tests.integration.watching import (
    SOON_S,
    client,
    commands_with,
    is_busy,
    is_there,
    running,
    within,
)

pytestmark = [pytest.mark.docker, pytest.mark.board]

Evil = Callable[[str], Path]
HANG = "for (;;) pause();"
LONG_S = 300.0  # no test waits for it
# Each docker command that there is.
DOCKERS = dict.fromkeys(
    Path(folder, "docker").resolve()
    for folder in os.get_exec_path()
    if os.access(Path(folder, "docker"), os.X_OK)
)


@pytest.fixture(params=DOCKERS, ids=str)
def every_docker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each docker command of this machine in turn: they do not say the same."""
    folder = tmp_path / "docker_command"
    folder.mkdir()
    (folder / "docker").symlink_to(request.param)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.fixture
def hanging(job: Job, evil: Evil) -> Job:
    return replace(job, module=evil(HANG), timeout_s=LONG_S)


def test_a_board_over_ssh_gives_what_this_machine_gives(
    remote: DockerDevice, local: LocalDevice, job: Job, expected: Callable[[Job], np.ndarray]
) -> None:
    result = remote.run(job)
    np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-4, atol=1e-4)
    assert result.outputs.tobytes() == local.run(job).outputs.tobytes()
    assert (len(result.warmup_ns), len(result.samples_ns), result.threads) == (3, 7, 2)
    assert not is_there(remote.name)


def test_a_machine_is_one_device_however_it_is_reached(remote: DockerDevice, local: LocalDevice) -> None:
    assert remote.probe() == local.probe()


def test_hundreds_of_inputs_go_through_ssh(
    remote: DockerDevice, untimed: Callable[[int], Job], expected: Callable[[Job], np.ndarray]
) -> None:
    job = untimed(500)
    np.testing.assert_allclose(remote.run(job).outputs, expected(job), rtol=1e-4, atol=1e-4)


def test_a_container_that_is_killed_is_named(remote: DockerDevice, hanging: Job, job: Job) -> None:
    with running(remote, hanging) as future:
        engines.at().ask("kill", remote.name)
        with pytest.raises(DeviceLostError, match=rf"{remote.target.name}: .*SIGKILL"):
            future.result(SOON_S)
    assert remote.run(job).output_stable


def test_what_a_network_says_is_not_taken_for_the_engines_word(
    remote: DockerDevice, job: Job, evil: Evil
) -> None:
    said = "error during connect: docker system dial-stdio: stderr=ssh: failed to connect"
    lying = evil(f'fputs("{said}\\n", stderr); signal(SIGSEGV, SIG_DFL); raise(SIGSEGV);')
    with pytest.raises(DeviceError, match=f"{remote.target.name}: .*ended by SIGSEGV"):
        remote.run(replace(job, module=lying))


@pytest.mark.usefixtures("every_docker")
def test_a_board_that_goes_away_in_the_middle_of_a_job_is_named(
    board: Board, remote: DockerDevice, hanging: Job, job: Job
) -> None:
    with running(remote, hanging) as future:
        board.stop()
        with pytest.raises(DeviceLostError, match=f"{remote.target.name}: its engine is gone: ") as failure:
            future.result(SOON_S)
    assert not set('\\"') & set(failure.value.cause)  # as ssh said it, and not as docker quotes it
    assert failure.value.next_step == "see that the device is up"
    within(SOON_S, lambda: not is_there(remote.name), "the board ends the job of a host that is gone")
    board.start()
    assert remote.run(job).output_stable


@pytest.mark.usefixtures("every_docker")
def test_a_board_that_is_away_is_named(board: Board, remote: DockerDevice, job: Job) -> None:
    board.stop()
    began = time.monotonic()
    for ask in (remote.probe, lambda: remote.run(job), remote.engine.facts):
        with pytest.raises(DeviceLostError) as failure:
            ask()
        assert failure.value.cause.endswith("Connection refused")
        assert len(str(failure.value)) < 200
    assert time.monotonic() - began < SOON_S


@pytest.mark.usefixtures("every_docker")
def test_the_reason_is_told_however_long_the_name_of_a_board_is(
    neighbourhood: Neighbourhood, remote: DockerDevice
) -> None:
    with neighbourhood.board("dlas-board-" + 150 * "x") as board:
        board.stop()
        away = replace(remote, engine=Engine(board.host))
        for ask in (away.probe, away.engine.facts):
            with pytest.raises(DeviceLostError) as failure:
                ask()
            assert failure.value.cause.endswith("Connection refused")


def test_a_board_that_falls_silent_is_given_up_as_soon_as_ssh_notices(
    board: Board, remote: DockerDevice, hanging: Job, job: Job
) -> None:
    with running(remote, hanging) as future:
        with board.silent():
            with pytest.raises(EngineError, match="no answer within 1 s"):
                remote.engine.ask("version", timeout_s=1)
            # After ServerAliveInterval times ServerAliveCountMax, ssh ends, and with it the command.
            within(SOON_S, lambda: not commands_with(f"--name={remote.name}"), "ssh gives the board up")
        with pytest.raises(DeviceLostError, match="its engine is gone"):
            future.result(SOON_S)
    assert not is_there(remote.name)
    assert remote.run(job).output_stable


def test_the_job_of_a_killed_client_ends_by_itself(
    remote: DockerDevice, hanging: Job, job: Job, tmp_path: Path
) -> None:
    with client(remote, hanging, tmp_path) as process:
        process.kill()
        within(SOON_S, lambda: not is_there(remote.name), "its container is gone")
        within(SOON_S, lambda: not commands_with(f"--name={remote.name}"), "its docker command is gone")
    assert not is_busy(remote)
    assert replace(remote, name=f"{remote.name}-next", wait_s=0).run(job).output_stable


def test_the_local_job_of_a_killed_client_ends_by_itself(
    local: LocalDevice, hanging: Job, job: Job, tmp_path: Path
) -> None:
    with client(local, hanging, tmp_path) as process:
        assert commands_with(local.lock)
        process.kill()
        within(SOON_S, lambda: not commands_with(local.lock), "its runner is gone")
    assert local.run(job).output_stable


def test_a_busy_board_is_waited_for_and_that_is_said(remote: DockerDevice, job: Job, hanging: Job) -> None:
    other = replace(remote, name=f"{remote.name}-other")
    said: list[str] = []
    with running(other, hanging), ThreadPoolExecutor(1) as pool:
        with pytest.raises(DeviceBusyError, match=f"{remote.target.name}: the device is busy") as failure:
            remote.run(job)
        assert failure.value.exit_code == 75
        waiting = pool.submit(replace(remote, wait_s=60, say=said.append).run, job)
        within(SOON_S, lambda: bool(said), "the job says that it waits")
        engines.at().remove_container(other.name)
        assert waiting.result(SOON_S).output_stable
    assert said == [f"{remote.target.name}: waiting for another job to leave the device"]


def test_a_job_that_takes_too_much_memory_is_named(remote: DockerDevice, job: Job, evil: Evil) -> None:
    greedy = evil("for (;;) { char *p = malloc(1 << 20); for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1; }")
    with pytest.raises(DeviceError, match="more memory than its container has"):
        remote.run(replace(job, module=greedy))
    assert not is_there(remote.name)
    assert remote.run(job).output_stable


def test_a_job_that_takes_too_long_is_named(remote: DockerDevice, job: Job, evil: Evil) -> None:
    with pytest.raises(DeviceError, match=f"{remote.target.name}: the job took longer than it may"):
        remote.run(replace(job, module=evil(HANG), timeout_s=1))
    assert not is_there(remote.name)
    assert not is_busy(remote)


def test_a_job_that_cannot_be_ended_by_its_clock_is_ended_by_the_host(
    remote: DockerDevice, job: Job, evil: Evil
) -> None:
    stubborn = evil("signal(SIGALRM, SIG_IGN); signal(SIGTERM, SIG_IGN); for (;;) pause();")
    with pytest.raises(DeviceError, match="no answer within"):
        replace(remote, grace_s=2.0).run(replace(job, module=stubborn, timeout_s=1))
    assert not is_there(remote.name)
    assert not is_busy(remote)
