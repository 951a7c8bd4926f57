"""Seeing what goes on on a board, past its ssh, and clients that can be killed."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dlas.hardware import engine as engines
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.values import Job, JobResult

ROOT = Path(__file__).parents[2]
SOON_S = 30.0  # what takes a second or two, on a machine that is busy


def within(seconds: float, holds: Callable[[], bool], what: str) -> None:
    """Return as soon as it holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}", pytrace=False)
        time.sleep(0.05)


def is_busy(device: DockerDevice | LocalDevice) -> bool:
    """Whether a job holds the device's lock, a folder of this machine."""
    inode = Path(device.lock).stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF; one who waits for it has an arrow before FLOCK
    return any(words[1] == "FLOCK" and words[5].endswith(f":{inode}") for words in locks)


def is_there(name: str) -> bool:
    """Whether this machine's engine has the container of a job, running or not."""
    return name in engines.at().jobs()


@contextmanager
def running(device: DockerDevice, job: Job) -> Iterator[Future[JobResult]]:
    """A job that is in its middle: it has the lock. Its container is gone when the block is left."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(device.run, job)
        try:
            within(SOON_S, lambda: future.done() or is_busy(device), "the job has the lock")
            assert not future.done(), future.exception()
            yield future
        finally:
            engines.at().remove_container(device.name)


@contextmanager
def client(device: DockerDevice | LocalDevice, job: Job, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process with a job that is in its middle. It is killed at the end, if not before."""
    errand = folder / "errand"
    errand.write_bytes(pickle.dumps((device, job)))
    process = subprocess.Popen([sys.executable, "-m", __spec__.name, str(errand)], cwd=ROOT)
    try:
        within(SOON_S, lambda: process.poll() is not None or is_busy(device), "the client's job has the lock")
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def commands_with(text: str) -> list[str]:
    """The command lines of the processes of this machine that have this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if text in line]


if __name__ == "__main__":
    its_device, its_job = pickle.loads(Path(sys.argv[1]).read_bytes())
    its_device.run(its_job)
