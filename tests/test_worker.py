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
from dlas.worker import Limit, Worker, tell

LIMIT = Limit(60, "building", "--build-timeout")


def refuse() -> None:
    raise UsageError("not this", "something else")


def test_it_stays_and_logs_what_is_printed(tmp_path: Path) -> None:
    with Worker() as worker:
        first = worker.call(tmp_path / "log", LIMIT, os.getpid)
        worker.call(tmp_path / "log", LIMIT, os.system, "echo from below")
        assert worker.call(tmp_path / "log", LIMIT, os.getpid) == first != os.getpid()
    assert "from below" in (tmp_path / "log").read_text()


def test_an_error_of_ours_arrives_as_it_is(tmp_path: Path) -> None:
    with Worker() as worker, pytest.raises(UsageError, match="not this; something else"):
        worker.call(tmp_path / "log", LIMIT, refuse)


def test_a_worker_that_died_between_calls_is_replaced(tmp_path: Path) -> None:
    with Worker() as worker:
        first = worker.call(tmp_path / "log", LIMIT, os.getpid)
        os.kill(first, signal.SIGKILL)
        time.sleep(0.5)
        assert worker.call(tmp_path / "log", LIMIT, os.getpid) != first


def test_a_time_out_ends_the_children_too(tmp_path: Path) -> None:
    with Worker() as worker:
        worker.call(tmp_path / "log", LIMIT, os.getpid)
        with pytest.raises(BuildError, match="more than 1 s"):
            worker.call(
                tmp_path / "log", LIMIT._replace(seconds=1), os.system, f"echo $$ > {tmp_path}/pid; sleep 60"
            )
    assert ended(int((tmp_path / "pid").read_text()))


def tell_twice() -> str:
    tell("epoch 1")
    tell("epoch 2")
    return "done"


def test_what_is_told_is_heard_before_the_result(tmp_path: Path) -> None:
    heard: list[str] = []
    with Worker(heard.append) as worker:
        assert worker.call(tmp_path / "log", LIMIT, tell_twice) == "done"
    assert heard == ["epoch 1", "epoch 2"]
    assert tell_twice() == "done"  # with no parent that listens
    assert len(heard) == 2


def show_progress() -> None:
    from tqdm import tqdm

    list(tqdm(range(3)))


def test_a_progress_bar_leaves_no_semaphore_and_no_warning(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dlas.worker import Limit, Worker\n"
        "from tests.test_worker import show_progress\n"
        "if __name__ == '__main__':\n"
        "    with Worker() as worker:\n"
        "        worker.call(Path(sys.argv[1]), Limit(60, '', ''), show_progress)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "log")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "3/3" in (tmp_path / "log").read_text()


def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from dlas.worker import Limit, Worker\n"
        "worker, limit = Worker(), Limit(60, 'building', '')\n"
        "print(worker.call(Path(sys.argv[1]), limit, os.getpid), flush=True)\n"
        "worker.call(Path(sys.argv[1]), limit, time.sleep, 60)\n"
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
