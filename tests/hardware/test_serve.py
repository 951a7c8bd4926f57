"""Several jobs to one runner: each is answered in turn, and what fails costs as little as it can."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlas.hardware.protocol import encode_job, parse_answer
from dlas.hardware.runner import Runner
from dlas.values import Job
from tests.hardware.boards import BOARD

Answer = tuple[dict[str, Any], bytes]
Evil = Callable[[str], Path]
Untimed = Callable[[int], Job]
Expected = Callable[[Job], np.ndarray]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch()
    return path


def archive(job: Job, cpu_set: str = "") -> bytes:
    board = replace(BOARD.board, cpu_set=cpu_set)
    return b"".join(encode_job(job, replace(BOARD, board=board)))


def command(program: Runner, folder: Path, *more: str, timeout_s: int = 20) -> list[str]:
    return [str(program.binary), "serve", "--dir", str(folder), "--timeout-s", str(timeout_s), *more]


def split(stdout: bytes) -> list[Answer]:
    """Every answer of a stream: a line, and as many bytes as it announces."""
    answers = []
    while stdout:
        line, _, stdout = stdout.partition(b"\n")
        fields = json.loads(line)
        size = 0 if "error" in fields else fields["output"]["bytes"]
        assert len(stdout) >= size
        answers.append((fields, stdout[:size]))
        stdout = stdout[size:]
    return answers


def failed(error: str, exit_code: int, goes_on: bool = False) -> dict[str, Any]:
    return {"error": error, "exit_code": exit_code, "goes_on": goes_on}


def serve(program: Runner, folder: Path, stdin: bytes, *more: str) -> tuple[int, list[Answer]]:
    folder.mkdir(exist_ok=True)
    ended = subprocess.run(command(program, folder, *more), input=stdin, capture_output=True, timeout=60)
    assert list(folder.iterdir()) == []
    return ended.returncode, split(ended.stdout)


def assert_right(answer: Answer, job: Job, expected: Expected) -> None:
    fields, raw = answer
    result = parse_answer(json.dumps(fields).encode() + b"\n" + raw, job, 2**62)
    np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-5, atol=1e-5)


def test_jobs_are_answered_in_their_order(
    program: Runner, job: Job, untimed: Untimed, expected: Expected, tmp_path: Path
) -> None:
    jobs = [job, untimed(3), replace(job, inputs=untimed(3).inputs[2:], threads=1, repeats=2)]
    code, answers = serve(program, tmp_path / "job", b"".join(map(archive, jobs)))
    assert (code, len(answers)) == (0, 3)
    for one, answer in zip(jobs, answers, strict=True):
        assert_right(answer, one, expected)


def test_a_job_does_not_see_what_the_one_before_it_set(program: Runner, job: Job, tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    stdin = archive(replace(job, threads=5), str(cpus[-1])) + archive(replace(job, threads=1))
    code, [(first, _), (second, _)] = serve(program, tmp_path / "job", stdin)
    assert code == 0
    assert (first["threads"], first["cpu_set"]) == (5, str(cpus[-1]))
    assert second["threads"] == 1
    assert second["cpu_set"] != first["cpu_set"] or len(cpus) == 1


def test_zeros_between_archives_are_tars_own(
    program: Runner, job: Job, expected: Expected, tmp_path: Path
) -> None:
    padded = archive(job) + bytes(9 * 512)
    code, answers = serve(program, tmp_path / "job", padded + padded)
    assert (code, len(answers)) == (0, 2)
    assert_right(answers[1], job, expected)


@pytest.mark.parametrize("stdin", [b"", bytes(1024)])
def test_no_job_at_all_is_a_wrong_use(program: Runner, tmp_path: Path, stdin: bytes) -> None:
    code, [(answer, raw)] = serve(program, tmp_path / "job", stdin)
    assert (code, answer, raw) == (2, failed("there is no job on stdin", 2), b"")


FAILURES = [
    ("*(volatile int *)0 = 1;", 128 + signal.SIGSEGV, "the job was ended by SIGSEGV"),
    ("abort();", 128 + signal.SIGABRT, "the job was ended by SIGABRT"),
    ("raise(SIGKILL);", 128 + signal.SIGKILL, "the job was ended by SIGKILL"),
    ("raise(SIGUSR1);", 128 + signal.SIGUSR1, "the job was ended by signal 10"),
    ("alarm(1); for (;;) pause();", 128 + signal.SIGALRM, "the job was ended by SIGALRM"),
    ("_exit(0);", 1, "the network ended the job's process"),
    ("_exit(75);", 1, "the network ended the job's process"),
    ("puts(__func__);", 1, "vm_load_executable"),
]


@pytest.mark.parametrize(("act", "exit_code", "message"), FAILURES)
def test_a_job_that_fails_costs_only_itself(
    program: Runner,
    job: Job,
    expected: Expected,
    evil: Evil,
    lock: Path,
    tmp_path: Path,
    act: str,
    exit_code: int,
    message: str,
) -> None:
    good, bad = archive(job), archive(replace(job, module=evil(act)))
    code, answers = serve(program, tmp_path / "job", good + bad + good, "--lock", str(lock))
    assert (code, len(answers)) == (exit_code, 3)
    assert_right(answers[0], job, expected)
    told = answers[1][0]
    assert told == failed(told["error"], exit_code, goes_on=True)
    assert message in told["error"]
    assert_right(answers[2], job, expected)


def test_the_exit_code_is_that_of_the_last_failure(
    program: Runner, job: Job, evil: Evil, tmp_path: Path
) -> None:
    crash = archive(replace(job, module=evil("abort();")))
    other = archive(replace(job, output_shape=(1, 1)))
    for stdin, last in ((crash + other, 1), (other + crash, 128 + signal.SIGABRT)):
        code, answers = serve(program, tmp_path / "job", stdin)
        assert (code, len(answers)) == (last, 2)


def test_a_crash_while_inputs_are_still_to_come_ends_the_serving(
    program: Runner, job: Job, untimed: Untimed, evil: Evil, tmp_path: Path
) -> None:
    stdin = archive(job) + archive(replace(untimed(2), module=evil("abort();"))) + archive(job)
    code, answers = serve(program, tmp_path / "job", stdin)
    assert (code, len(answers)) == (128 + signal.SIGABRT, 2)
    assert answers[1][0] == failed("the job was ended by SIGABRT", 128 + signal.SIGABRT)


@pytest.mark.parametrize("kept", [-1, -600, 700, 100])
def test_a_truncated_archive_ends_the_serving(
    program: Runner, untimed: Untimed, expected: Expected, tmp_path: Path, kept: int
) -> None:
    job = untimed(2)
    code, answers = serve(program, tmp_path / "job", archive(job) + archive(job)[:kept])
    assert (code, len(answers)) == (1, 2)
    assert_right(answers[0], job, expected)
    assert answers[1][0] == failed("tar: the archive ends early", 1)


def test_what_follows_an_archive_must_be_one(program: Runner, job: Job, tmp_path: Path) -> None:
    stdin = archive(job) + b"\xff" * 1024 + archive(job)
    code, answers = serve(program, tmp_path / "job", stdin)
    assert (code, len(answers)) == (1, 2)
    assert answers[1][0] == failed("tar: a header is not ustar, or damaged", 1)


def test_a_job_that_ends_within_its_answer_is_not_explained(
    program: Runner, untimed: Untimed, tmp_path: Path
) -> None:
    job = replace(untimed(1000), observe=("/proc/self/stat",))  # more of an answer than a pipe holds
    arguments = command(program, tmp_path)
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(archive(job))
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        raw = process.stdout.read(1)
        os.kill(int(answer["before"]["/proc/self/stat"].split()[0]), signal.SIGKILL)
        assert process.wait(20) == 128 + signal.SIGKILL  # though its input has not ended
        raw += process.stdout.read()
    assert len(raw) < answer["output"]["bytes"]
    assert b"error" not in raw


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Conversation:
    """A runner to which jobs are said one by one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def say(self, stdin: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(stdin)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        fields: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.process.stdout.read(fields["output"]["bytes"])
        return fields


@contextmanager
def talk(program: Runner, folder: Path, lock: Path) -> Iterator[Conversation]:
    folder.mkdir()
    arguments = command(program, folder, "--lock", str(lock), "--wait-s", "20")
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Conversation(process)
        finally:
            process.kill()


def test_the_lock_is_held_only_while_a_job_runs(
    program: Runner, job: Job, lock: Path, tmp_path: Path
) -> None:
    stdin = archive(job)
    with talk(program, tmp_path / "job", lock) as runner:
        assert is_free(lock)
        for _ in range(2):
            runner.say(stdin[:600])
            wait_until(lambda: not is_free(lock))
            runner.say(stdin[600:])
            assert runner.hear()["output_stable"]
            wait_until(lambda: is_free(lock))
        assert runner.process.poll() is None


def has_open(path: Path) -> bool:
    """Whether another process has this file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.parts[2] != str(os.getpid()) and link.readlink() == path:
                return True
        except OSError:  # the process or its descriptor has gone
            continue
    return False


def test_the_wait_for_the_lock_is_told(program: Runner, job: Job, lock: Path, tmp_path: Path) -> None:
    with talk(program, tmp_path / "job", lock) as runner, lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start_ns = time.monotonic_ns()
        runner.say(archive(job)[:1])
        wait_until(lambda: has_open(lock))
        seen_ns = time.monotonic_ns()
        time.sleep(0.2)
        held_ns = time.monotonic_ns() - seen_ns
        fcntl.flock(file, fcntl.LOCK_UN)
        runner.say(archive(job)[1:])
        answer = runner.hear()
        total_ns = time.monotonic_ns() - start_ns
    assert held_ns <= answer["wait_ns"] <= total_ns - answer["run_ns"]
    assert answer["run_ns"] >= sum(answer["samples_ns"])


def test_a_killed_runner_leaves_no_job(program: Runner, job: Job, lock: Path, tmp_path: Path) -> None:
    with talk(program, tmp_path / "job", lock) as runner:
        runner.say(archive(job)[:600])
        wait_until(lambda: not is_free(lock))
        runner.process.kill()
        wait_until(lambda: is_free(lock))  # the input is still open: nothing else would have ended it
        assert runner.process.stdin is not None
        assert not runner.process.stdin.closed


def test_a_runner_ends_with_the_process_that_started_it(program: Runner, lock: Path, tmp_path: Path) -> None:
    arguments = command(program, tmp_path, "--lock", str(lock), timeout_s=60)
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    ours, theirs = os.pipe()  # an input that never ends: not even the death of the parent closes it
    os.write(theirs, b"j")  # a job begins
    parent = subprocess.Popen([sys.executable, "-c", script, *arguments], stdin=ours)
    wait_until(lambda: not is_free(lock))
    parent.kill()
    parent.wait()
    wait_until(lambda: is_free(lock))
    os.close(theirs)
    os.close(ours)


def test_a_runner_without_a_host_ends_by_itself(program: Runner, tmp_path: Path) -> None:
    arguments = command(program, tmp_path, timeout_s=1)
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"j")
        process.stdin.flush()
        assert process.wait(20) == 128 + signal.SIGALRM


def run_once(program: Runner, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    line = [str(program.binary), "run", "--dir", str(folder), "--timeout-s", "20", *more]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def test_one_job_ends_the_program_while_its_stdin_is_open(
    program: Runner, job: Job, expected: Expected, tmp_path: Path
) -> None:
    with run_once(program, tmp_path / "job") as process:
        send(process, archive(job))
        assert process.wait(20) == 0
        assert process.stdout is not None
        [answer] = split(process.stdout.read())
    assert_right(answer, job, expected)


def test_a_job_ends_when_its_host_is_gone(
    program: Runner, job: Job, evil: Evil, lock: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "started"
    hangs = evil(f'signal(SIGTERM, SIG_IGN); fclose(fopen("{marker}", "w")); for (;;) pause();')
    with run_once(program, tmp_path / "job", "--lock", str(lock)) as process:
        send(process, archive(replace(job, module=hangs)))
        while not marker.exists():
            assert process.poll() is None
            time.sleep(0.01)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 128 + signal.SIGKILL
        assert process.stderr is not None
        assert b"the host is gone" in process.stderr.read()
    assert list((tmp_path / "job").iterdir()) == []
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free


def test_a_host_that_goes_while_it_sends_ends_the_job(program: Runner, job: Job, tmp_path: Path) -> None:
    with run_once(program, tmp_path / "job") as process:
        send(process, archive(job)[:5000])
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) in (1, 128 + signal.SIGKILL)
    assert list((tmp_path / "job").iterdir()) == []


def test_a_folder_can_be_the_lock_and_who_waits_says_so(
    program: Runner, job: Job, expected: Expected, tmp_path: Path
) -> None:
    folder = tmp_path / "lock"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with run_once(program, tmp_path / "job", "--lock", str(folder), "--wait-s", "20") as process:
        send(process, archive(job))
        assert process.stderr is not None
        assert process.stderr.readline() == b"waiting for another job to leave the device\n"
        os.close(descriptor)
        assert process.wait(20) == 0
        assert process.stdout is not None
        [answer] = split(process.stdout.read())
    assert_right(answer, job, expected)


def test_a_probe_tells_whether_a_job_runs(program: Runner, lock: Path) -> None:
    line = [str(program.binary), "probe", "--lock", str(lock)]
    assert subprocess.run(line, input=b"", capture_output=True, check=True).stdout.startswith(b'{"protocol"')
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        busy = subprocess.run(line, input=b"", capture_output=True, check=False)
    assert (busy.returncode, b"the device is busy" in busy.stdout) == (75, True)
