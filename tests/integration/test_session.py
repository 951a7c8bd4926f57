"""Sessions in containers, over a real ssh: one container for many jobs, and each fault made on purpose."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import DeviceError, DeviceLostError
from dlas.hardware import engine as engines
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.reach import Access, docker_device
from dlas.values import Job
from tests.integration import watching
from tests.integration.board import Board
from tests.integration.images import image_of
from tests.integration.watching import ROOT, SOON_S, commands_with, is_busy, is_there, within

pytestmark = [pytest.mark.docker, pytest.mark.board]

Evil = Callable[[str], Path]
Expected = Callable[[Job], np.ndarray]
HANG = "for (;;) pause();"
HOSTNAME = "/etc/hostname"  # of a container: its id
CLIENT = """
import pickle, sys, time
from pathlib import Path
device, jobs, timeout_s, marker = pickle.loads(Path(sys.argv[1]).read_bytes())
with device.session(timeout_s) as session:
    for job in jobs:
        session.run(job)
    Path(marker).touch()
    time.sleep(600)
"""


@pytest.fixture
def seen(job: Job) -> Job:
    """A job that tells which container it ran in."""
    return replace(job, observe=(HOSTNAME,))


@pytest.fixture(autouse=True)
def no_container_is_left(remote: DockerDevice) -> Iterator[None]:
    yield
    within(SOON_S, lambda: not [name for name in engines.at().jobs() if remote.name in name], "all are gone")


def name_of(device: DockerDevice) -> str:
    return f"{device.name}-session1"


@contextmanager
def client(
    device: DockerDevice, jobs: list[Job], timeout_s: float, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Another process with a session, and what is there once its jobs are done. It is killed at the end."""
    errand, marker = folder / "errand", folder / "done"
    errand.write_bytes(pickle.dumps((device, jobs, timeout_s, str(marker))))
    process = subprocess.Popen([sys.executable, "-c", CLIENT, str(errand)], cwd=ROOT)
    try:
        yield process, marker
    finally:
        process.kill()
        process.wait()


def test_a_session_over_ssh_gives_what_this_machine_gives(
    remote: DockerDevice, local: LocalDevice, seen: Job, untimed: Callable[[int], Job], expected: Expected
) -> None:
    many = replace(untimed(500), observe=(HOSTNAME,))
    with remote.session(30) as session:
        results = [session.run(one) for one in (seen, many, seen, seen)]
        assert is_there(name_of(remote))
        assert not is_busy(remote)
    assert not is_there(name_of(remote))
    assert len({result.before[HOSTNAME] for result in results}) == 1
    for one, result in zip((seen, many), results[:2], strict=True):
        np.testing.assert_allclose(result.outputs, expected(one), rtol=1e-4, atol=1e-4)
    assert results[3].outputs.tobytes() == local.run(seen).outputs.tobytes()


def test_a_job_of_another_process_goes_in_between(remote: DockerDevice, seen: Job, tmp_path: Path) -> None:
    errand = tmp_path / "errand"
    errand.write_bytes(pickle.dumps((remote, seen)))
    with remote.session(30) as session:
        first = session.run(seen)
        subprocess.run([sys.executable, "-m", watching.__name__, str(errand)], cwd=ROOT, check=True)
        assert session.run(seen).before == first.before


def test_a_job_that_fails_costs_only_itself(remote: DockerDevice, seen: Job, evil: Evil) -> None:
    said = "error during connect: docker system dial-stdio: stderr=ssh: failed to connect"
    acts = [
        (f'fputs("{said}\\n", stderr); signal(SIGSEGV, SIG_DFL); raise(SIGSEGV);', "ended by SIGSEGV"),
        (HANG, "the job took longer than it may"),
        ("_exit(0);", "the network ended the job's process"),
    ]
    with remote.session(2) as session:
        first = session.run(seen)
        for act, message in acts:
            with pytest.raises(DeviceError, match=f"{remote.target.name}: .*{message}"):
                session.run(replace(seen, module=evil(act)))
            assert session.run(seen).before == first.before


def test_a_container_that_is_killed_between_two_jobs_costs_one_at_most(
    remote: DockerDevice, seen: Job
) -> None:
    said: list[str] = []
    with replace(remote, say=said.append).session(30) as session:
        first = session.run(seen)
        engines.at().ask("kill", name_of(remote))
        within(SOON_S, lambda: not commands_with(f"--name={name_of(remote)}"), "its docker command has ended")
        assert session.run(seen).before != first.before
        assert said == [f"{remote.target.name}: its runner ended between two jobs; another one is started"]
        engines.at().ask("kill", name_of(remote))
        try:  # at once: its end may not be known here yet
            session.run(seen)
        except DeviceLostError:
            assert len(said) == 1
        assert session.run(seen).output_stable


def test_a_container_that_is_killed_in_the_middle_of_a_job_is_named(
    remote: DockerDevice, seen: Job, evil: Evil
) -> None:
    hanging = replace(seen, module=evil(HANG))
    with remote.session(300) as session, ThreadPoolExecutor(1) as pool:
        future = pool.submit(session.run, hanging)
        within(SOON_S, lambda: future.done() or is_busy(remote), "the job has the lock")
        engines.at().ask("kill", name_of(remote))
        with pytest.raises(DeviceLostError, match=rf"{remote.target.name}: .*SIGKILL"):
            future.result(SOON_S)
        assert session.run(seen).output_stable


def test_a_board_that_goes_away_and_comes_back_costs_the_jobs_meanwhile(
    board: Board, remote: DockerDevice, seen: Job, evil: Evil
) -> None:
    hanging = replace(seen, module=evil(HANG))
    with remote.session(300) as session, ThreadPoolExecutor(1) as pool:
        future = pool.submit(session.run, hanging)
        within(SOON_S, lambda: future.done() or is_busy(remote), "the job has the lock")
        board.stop()
        with pytest.raises(DeviceLostError, match=f"{remote.target.name}: its engine is gone: "):
            future.result(SOON_S)
        with pytest.raises(DeviceLostError, match="Connection refused"):
            session.run(seen)
        board.start()
        assert session.run(seen).output_stable  # the one that hangs has been removed


def test_a_board_that_falls_silent_is_given_up_as_soon_as_ssh_notices(
    board: Board, remote: DockerDevice, seen: Job
) -> None:
    with remote.session(30) as session:
        assert session.run(seen).output_stable
        with board.silent():
            within(SOON_S, lambda: not commands_with(f"--name={name_of(remote)}"), "ssh gives the board up")
        assert session.run(seen).output_stable


def test_the_idle_container_of_a_killed_client_ends_by_itself(
    remote: DockerDevice, seen: Job, tmp_path: Path
) -> None:
    with client(remote, [seen], 300, tmp_path) as (process, marker):
        within(SOON_S, lambda: marker.exists() or process.poll() is not None, "its jobs are done")
        assert is_there(name_of(remote))
        process.kill()
        within(SOON_S, lambda: not is_there(name_of(remote)), "its container is gone")
        within(SOON_S, lambda: not commands_with(f"--name={name_of(remote)}"), "its docker command is gone")


def test_the_job_of_a_killed_client_ends_when_its_time_does(
    remote: DockerDevice, seen: Job, evil: Evil, tmp_path: Path
) -> None:
    hanging = replace(seen, module=evil(HANG), timeout_s=1000)
    with client(remote, [hanging], 5, tmp_path) as (process, _):
        within(SOON_S, lambda: process.poll() is not None or is_busy(remote), "its job has the lock")
        time.sleep(1)  # it has the whole job, and hangs
        assert is_busy(remote)
        process.kill()
        within(SOON_S, lambda: not is_there(name_of(remote)), "its container is gone")
    assert not is_busy(remote)
    with remote.session(30) as session:
        assert session.run(seen).output_stable


def test_what_a_killed_client_left_is_removed(remote: DockerDevice, seen: Job) -> None:
    # Its input never ends, so that it would live for ever.
    left = ["create", "--interactive", f"--name={name_of(remote)}", f"--label={engines.JOB_LABEL}=x"]
    engines.at().ask(*left, remote.image.id, "probe")
    engines.at().ask("start", name_of(remote))
    with remote.session(30) as session:
        assert session.run(seen).output_stable


def relu(path: Path) -> Path:
    """A network for aarch64: x is (4, 64)."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 64), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(y)
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a73"})
    library = tvm.compile(relax.transform.LegalizeOps()(builder.get()), target)

    def link(output: str, objects: list[str], **_: object) -> None:
        subprocess.run(["aarch64-linux-gnu-g++", "-shared", "-fPIC", "-o", output, *objects], check=True)

    library.export_library(str(path), fcompile=link)
    return path


@pytest.mark.qemu
@pytest.mark.aarch64
def test_a_session_on_a_board_that_is_emulated(
    standing_board: Board, machine_lock: str, artifacts: Path, seen: Job, tmp_path: Path
) -> None:
    job = replace(seen, module=relu(tmp_path / "relu.so"), threads=1)
    with image_of("hikey970_neon", artifacts) as (target, image):
        access = Access("docker", host=standing_board.host, emulate=True)
        device, _ = docker_device(target, access, artifacts, print)
        assert (device.emulated, device.image.id) == (True, image.id)
        with device.session(60) as session:
            results = [session.run(job) for _ in range(3)]
            with pytest.raises(DeviceError, match="invalid ELF header"):
                session.run(replace(job, module=Path(__file__)))
            results.append(session.run(job))
        assert not is_there(name_of(device))
    assert len({result.before[HOSTNAME] for result in results}) == 1
    for result in results:
        np.testing.assert_array_equal(result.outputs, np.maximum(job.inputs, 0))
