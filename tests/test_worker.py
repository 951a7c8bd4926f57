"""The worker process: what it prints, how it dies, and that it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlas.errors import BuildError, UsageError
from dlas.worker import Worker


def refuse() -> None:
    raise UsageError("not this", "something else")


def test_it_stays_and_logs_what_is_printed(tmp_path: Path) -> None:
    with Worker() as worker:
        first = worker.call(tmp_path / "log", 60, os.getpid)
        worker.call(tmp_path / "log", 60, os.system, "echo from below")
        assert worker.call(tmp_path / "log", 60, os.getpid) == first != os.getpid()
    assert "from below" in (tmp_path / "log").read_text()


def test_an_error_of_ours_arrives_as_it_is(tmp_path: Path) -> None:
    with Worker() as worker, pytest.raises(UsageError, match="not this; something else"):
        worker.call(tmp_path / "log", 60, refuse)


def test_a_worker_that_died_between_calls_is_replaced(tmp_path: Path) -> None:
    with Worker() as worker:
        first = worker.call(tmp_path / "log", 60, os.getpid)
        os.kill(first, signal.SIGKILL)
        time.sleep(0.5)
        assert worker.call(tmp_path / "log", 60, os.getpid) != first


def test_a_time_out_ends_the_children_too(tmp_path: Path) -> None:
    with Worker() as worker:
        worker.call(tmp_path / "log", 60, os.getpid)
        with pytest.raises(BuildError, match="more than 1 s"):
            worker.call(tmp_path / "log", 1, os.system, f"echo $$ > {tmp_path}/pid; sleep 60")
    assert ended(int((tmp_path / "pid").read_text()))


def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from dlas.worker import Worker\n"
        "worker = Worker()\n"
        "print(worker.call(Path(sys.argv[1]), 60, os.getpid), flush=True)\n"
        "worker.call(Path(sys.argv[1]), 60, time.sleep, 60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert ended(child)


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for, within five seconds."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False
