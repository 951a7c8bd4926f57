"""Sessions: many jobs for one runner, over the real one, over runners that lie, and in a real container."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas.errors import DeviceBusyError, DeviceError, DeviceLostError, StorageError
from dlas.hardware import commands, engine, lock, protocol
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.engine import Engine
from dlas.hardware.runner import Runner
from dlas.hardware.session import own_name
from dlas.values import Job, JobResult, Target

Evil = Callable[[str], Path]
Expected = Callable[[Job], np.ndarray]
Untimed = Callable[[int], Job]

STAT = "/proc/self/stat"
HANG = "for (;;) pause();"
STUBBORN = f"signal(SIGALRM, SIG_IGN); signal(SIGTERM, SIG_IGN); {HANG}"


@pytest.fixture
def seen(job: Job) -> Job:
    """A job that tells who started its process."""
    return replace(job, observe=(STAT,))


def runner_of(result: JobResult) -> str:
    """The process id of the runner that served a job."""
    return result.before[STAT].split()[3]


def is_alive(pid: str) -> bool:
    """Not gone, and not a zombie that its new parent has yet to bury."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def within(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_free(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def held(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)


def test_many_jobs_have_one_runner(
    local: LocalDevice, seen: Job, untimed: Untimed, expected: Expected
) -> None:
    jobs = [seen, replace(untimed(3), observe=(STAT,)), replace(seen, threads=1, repeats=2)] * 4
    with local.session(30) as session:
        results = [session.run(job) for job in jobs]
        (pid,) = set(map(runner_of, results))
        assert is_alive(pid)
    for job, result in zip(jobs, results, strict=True):
        np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-5, atol=1e-5)
        assert result.output_stable
        assert (result.threads, len(result.samples_ns)) == (job.threads, job.repeats)
        assert result.run_seconds > 0 < result.ship_seconds
        assert sum(result.warmup_ns + result.samples_ns) < result.run_seconds * 1e9
    assert not is_alive(pid)
    assert list(local.scratch.iterdir()) == []


def test_a_session_without_a_job_starts_nothing(local: LocalDevice, tmp_path: Path) -> None:
    with replace(local, program=Runner(tmp_path, "none")).session(30):
        assert not local.scratch.exists()


def test_a_runner_that_does_not_start_is_a_device_error(local: LocalDevice, job: Job, tmp_path: Path) -> None:
    with replace(local, program=Runner(tmp_path, "none")).session(30) as session:
        for _ in range(2):
            with pytest.raises(DeviceError, match="does not start"):
                session.run(job)
    assert list(local.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("*(volatile int *)0 = 1;", "ended by SIGSEGV"),
        ("abort();", "ended by SIGABRT"),
        ("raise(SIGKILL);", "ended by SIGKILL"),
        ("_exit(0);", "the network ended the job's process"),
        ("puts(__func__);", "vm_load_executable"),
    ],
)
def test_a_job_that_fails_costs_only_itself(
    local: LocalDevice, seen: Job, expected: Expected, evil: Evil, act: str, message: str
) -> None:
    crash = replace(seen, module=evil(f'fputs("last words\\n", stderr); {act}'))
    with local.session(30) as session:
        first = session.run(seen)
        with pytest.raises(DeviceError, match=f"{local.target.name}: .*{message}") as failure:
            session.run(crash)
        second = session.run(seen)
    assert type(failure.value) is DeviceError  # the device is not lost
    assert any("last words" in note for note in failure.value.__notes__)
    assert runner_of(first) == runner_of(second)
    assert "last words" not in second.log
    np.testing.assert_allclose(second.outputs, expected(seen), rtol=1e-5, atol=1e-5)


def test_the_time_of_a_job_is_that_of_the_session(local: LocalDevice, seen: Job, evil: Evil) -> None:
    hangs = replace(seen, module=evil(HANG), timeout_s=1000)
    with local.session(1) as session:
        first = session.run(seen)
        with pytest.raises(DeviceError, match=f"{local.target.name}: the job took longer than it may"):
            session.run(hangs)
        assert runner_of(session.run(seen)) == runner_of(first)
    assert list(local.scratch.iterdir()) == []


def test_what_its_clock_does_not_end_the_host_ends(local: LocalDevice, seen: Job, evil: Evil) -> None:
    with replace(local, grace_s=1.0).session(1) as session:
        first = session.run(seen)
        with pytest.raises(DeviceError, match="no answer within 2 s"):
            session.run(replace(seen, module=evil(STUBBORN)))
        assert not is_alive(runner_of(first))
        within(lambda: is_free(local.lock))
        assert runner_of(session.run(seen)) != runner_of(first)


def test_a_crash_while_inputs_are_to_come_ends_the_runner_and_not_the_session(
    local: LocalDevice, seen: Job, untimed: Untimed, evil: Evil
) -> None:
    with local.session(30) as session:
        first = session.run(seen)
        for count in (2, 5000):  # more than a pipe holds: what is not sent is not sent any more
            with pytest.raises(DeviceError, match="ended by SIGABRT"):
                session.run(replace(untimed(count), module=evil("abort();")))
        second = session.run(seen)
    assert second.output_stable
    assert runner_of(second) != runner_of(first)


def test_a_job_that_cannot_be_sent_costs_nothing(local: LocalDevice, seen: Job, tmp_path: Path) -> None:
    with local.session(30) as session:
        first = session.run(seen)
        with pytest.raises(DeviceError, match="make both 0 or neither"):
            session.run(replace(seen, warmups=0))
        assert runner_of(session.run(seen)) == runner_of(first)
        with pytest.raises(StorageError, match="build the artifact again"):
            session.run(replace(seen, module=tmp_path / "gone.so"))
        assert session.run(seen).output_stable


def test_a_runner_that_died_between_two_jobs_is_replaced(local: LocalDevice, seen: Job) -> None:
    said: list[str] = []
    with replace(local, say=said.append).session(30) as session:
        first = session.run(seen)
        os.kill(int(runner_of(first)), signal.SIGKILL)
        within(lambda: not is_alive(runner_of(first)))
        assert runner_of(session.run(seen)) != runner_of(first)
    assert said == [f"{local.target.name}: its runner ended between two jobs; another one is started"]


def test_a_runner_that_dies_in_the_middle_of_a_job_costs_that_job(
    local: LocalDevice, seen: Job, evil: Evil
) -> None:
    killing = replace(seen, module=evil("kill(getppid(), SIGKILL); for (;;) pause();"))
    with local.session(30) as session:
        first = session.run(seen)
        with pytest.raises(DeviceLostError, match="ended by SIGKILL, and not by itself"):
            session.run(killing)
        assert runner_of(session.run(seen)) != runner_of(first)
    assert list(local.scratch.iterdir()) == []


def test_an_error_of_the_host_leaves_no_runner(local: LocalDevice, seen: Job) -> None:
    pids = []

    def err() -> None:
        with local.session(30) as session:
            pids.append(runner_of(session.run(seen)))
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        err()
    assert not is_alive(pids[0])
    assert list(local.scratch.iterdir()) == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A suite that a shell runs in the background would ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_job_leaves_nothing(local: LocalDevice, seen: Job, evil: Evil) -> None:
    def interrupt() -> None:
        within(lambda: not is_free(local.lock))
        os.kill(os.getpid(), signal.SIGINT)

    stubborn = replace(seen, module=evil(STUBBORN))
    with local.session(300) as session:
        first = session.run(seen)
        within(lambda: is_free(local.lock))
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            session.run(stubborn)
        thread.join()
        assert not is_alive(runner_of(first))
        within(lambda: is_free(local.lock))
        assert session.run(seen).output_stable  # for who goes on all the same
    assert list(local.scratch.iterdir()) == []


def test_other_jobs_go_in_between(local: LocalDevice, seen: Job) -> None:
    with local.session(30) as session, local.session(30) as other:
        pids = []
        for _ in range(2):
            pids.append(runner_of(session.run(seen)))
            within(lambda: is_free(local.lock))
            assert local.run(seen).output_stable  # waits for nobody: wait_s is 0
            within(lambda: is_free(local.lock))
            pids.append(runner_of(other.run(seen)))
            within(lambda: is_free(local.lock))
    assert pids[:2] == pids[2:]
    assert pids[0] != pids[1]


def test_a_job_holds_the_lock(local: LocalDevice, job: Job, evil: Evil) -> None:
    tried: list[BaseException] = []

    def try_another() -> None:
        within(lambda: not is_free(local.lock))
        try:
            local.run(job)
        except DeviceBusyError as error:
            tried.append(error)

    with local.session(3) as session:
        thread = threading.Thread(target=try_another)
        thread.start()
        with pytest.raises(DeviceError, match="longer than it may"):
            session.run(replace(job, module=evil(HANG)))
        thread.join()
    assert len(tried) == 1


def test_a_busy_device_costs_one_job(local: LocalDevice, job: Job) -> None:
    with local.session(30) as session:
        with held(local.lock), pytest.raises(DeviceBusyError, match="the device is busy") as failure:
            session.run(job)
        assert failure.value.exit_code == 75
        assert session.run(job).output_stable


def test_each_job_waits_for_the_lock_and_says_so(local: LocalDevice, job: Job) -> None:
    said: list[str] = []
    with replace(local, wait_s=20, say=said.append).session(30) as session:
        assert session.run(job).output_stable
        for _ in range(2):
            with held(local.lock) as descriptor:
                timer = threading.Timer(0.5, os.close, (descriptor,))
                timer.start()
                assert session.run(job).output_stable
                timer.join()
    assert said == ["test_host: waiting for another job to leave the device"] * 2


# Runners that lie when they are first started, and are honest from then on.

HONEST = """
import json, os, signal, sys, tarfile, time
answer = {
    "protocol": 4, "samples_ns": [1] * 7, "warmup_ns": [1] * 3, "threads": 2, "output_stable": True,
    "output": {"count": 1, "shape": [4, 64], "dtype": "float32", "bytes": 1024},
    "cpu_set": "0", "gpu": "", "peak_rss_bytes": 1, "before": {}, "after": {}, "wait_ns": 0, "run_ns": 1,
}
stdin = sys.stdin.buffer
def take():
    list(tarfile.open(fileobj=stdin, mode="r|", bufsize=512))
    stdin.read(512)  # the archive ends with two blocks of zeros, the library reads one
def write(data):
    while data:
        data = data[os.write(1, data):]
def say(answer, raw=bytes(1024)):
    write(json.dumps(answer).encode() + b"\\n" + raw)
def fail(**fields):
    say({"error": "because", "exit_code": 1, "goes_on": True} | fields, b"")
with open(sys.argv[0] + ".starts", "a") as file:
    file.write(f"{os.getpid()} ")
is_first = len(open(sys.argv[0] + ".starts").read().split()) == 1
assert sys.argv[1] == "serve"
"""
GOES_ON = """
while stdin.peek(1):
    take()
    say(answer)
"""


class Liar:
    """A device whose runner is a Python script: body is for its first start."""

    def __init__(self, local: LocalDevice, folder: Path, body: str) -> None:
        folder.mkdir()
        script = folder / "runner"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        script.write_text(f"#!{sys.executable}\n{HONEST}\nif is_first:\n{lines}{GOES_ON}")
        script.chmod(0o755)
        self._starts = folder / "runner.starts"
        self.said: list[str] = []
        # It takes a while to start Python on a busy machine.
        self.device = replace(local, program=Runner(folder, "liar"), grace_s=5.0, say=self.said.append)

    @property
    def started(self) -> list[str]:
        return self._starts.read_text().split()


@pytest.fixture
def liar(local: LocalDevice, tmp_path: Path) -> Callable[[str], Liar]:
    return lambda body: Liar(local, tmp_path / "liar", body)


def test_the_liar_can_tell_the_truth(liar: Callable[[str], Liar], job: Job) -> None:
    honest = liar("pass")
    with honest.device.session(1) as session:
        for _ in range(3):
            assert session.run(job).samples_ns == (1,) * 7
    assert len(honest.started) == 1


LIES = [
    ("say(answer, bytes(1020)); time.sleep(60)", "no answer within"),
    ("say(answer, bytes(1025)); time.sleep(60)", "1025 bytes, 1024 were expected"),
    ("say(answer, bytes(1020)); sys.exit(0)", "the runner gave no reason"),
    ("say(answer, bytes(1020)); os.kill(os.getpid(), signal.SIGABRT)", "ended by SIGABRT"),
    ("write(json.dumps(answer).encode()); time.sleep(60)", "no answer within"),
    ("say(answer, bytes(3 << 20))", "bytes, 1024 were expected|longer than"),
    ("answer['output']['bytes'] = 1020; say(answer, bytes(1020)); time.sleep(60)", "1020 bytes, 1024 were"),
    ("say(answer | {'samples_ns': [float('nan')] * 7})", "not the JSON"),
    ("say(answer | {'samples_ns': [1] * 150})", "150 entries, 7 were asked"),
    ("say(answer | {'samples_ns': [10**10] * 7})", "not a time of 1 to 1000000000 ns"),
    ("say(answer | {'run_ns': 100 * 10**9})", "'run_ns' is not a number of 1 to"),
    ("say(answer | {'wait_ns': 100 * 10**9})", "'wait_ns' is not a number of 0 to"),
    ("say(answer | {'more': 1})", "unknown field 'more'"),
    ("write(b'hello\\n'); time.sleep(60)", "not the JSON"),
    ("write(b'[' * 100000 + b'\\n'); time.sleep(60)", "not the JSON"),
    ("while True: write(bytes(1 << 16))", "no first line"),
    ("while True: os.write(2, bytes(1 << 16))", "no answer within"),
    ("time.sleep(60)", "no answer within"),
    ("os.close(1); time.sleep(60)", "no answer within"),
    ("os.close(0); os.close(1); os.close(2); time.sleep(60)", "no answer within"),
    ("sys.exit(0)", "the runner gave no reason"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    ("os.write(2, b'why not'); sys.exit(3)", "why not"),
    ("fail(error='because \\x1b[2J of this', goes_on=False)", "because \ufffd.2J of this"),
    ("fail(error=['x'])", "'error' is missing or not of type str"),
    ("fail(exit_code=0)", "'exit_code' is not a number of 1 to 255"),
    ("fail(exit_code=256)", "'exit_code' is not a number of 1 to 255"),
    ("fail(goes_on=1)", "'goes_on' is missing or not of type bool"),
    ("fail(more=1)", "unknown field 'more'"),
    ("fail(); write(b'more')", "raw bytes behind it|because"),  # in one piece or not
]


@pytest.mark.parametrize(("body", "message"), LIES)
def test_a_runner_that_lies_costs_one_job(
    liar: Callable[[str], Liar], job: Job, body: str, message: str
) -> None:
    lying = liar(f"take()\n{body}")
    began = time.monotonic()
    with replace(lying.device, grace_s=1.5).session(1) as session:
        with pytest.raises(DeviceError, match=message) as failure:
            session.run(job)
        assert session.run(job).samples_ns == (1,) * 7
        assert len(lying.started) == 2
    assert time.monotonic() - began < 20
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 1000
    assert not list(filter(is_alive, lying.started))


def test_an_answer_that_nobody_asked_for_is_not_taken(liar: Callable[[str], Liar], job: Job) -> None:
    eager = liar("take()\nsay(answer)\ntime.sleep(0.3)\nsay(answer | {'samples_ns': [5] * 7})")
    with eager.device.session(1) as session:
        assert session.run(job).samples_ns == (1,) * 7
        time.sleep(1)
        assert session.run(job).samples_ns == (1,) * 7
    assert len(eager.started) == 2
    assert len(eager.said) == 1


def test_an_answer_to_half_a_job_is_not_taken(
    liar: Callable[[str], Liar], job: Job, untimed: Untimed
) -> None:
    large = replace(untimed(5000), repeats=7, warmups=3)
    hasty = liar("answer['output'] |= {'count': 5000, 'bytes': 5120000}\nsay(answer, bytes(5120000))")
    with hasty.device.session(1) as session:
        with pytest.raises(DeviceError, match="answered a job that it had not got"):
            session.run(large)
        assert session.run(job).samples_ns == (1,) * 7
    assert len(hasty.started) == 2


def test_nothing_of_a_hanging_runner_is_left(liar: Callable[[str], Liar], job: Job) -> None:
    body = "pid = os.fork()\nopen(sys.argv[0] + '.starts', 'a').write(f'{os.getpid()} ')\ntime.sleep(60)"
    hanging = liar(body)
    with hanging.device.session(1) as session, pytest.raises(DeviceError, match="no answer within"):
        session.run(job)
    assert len(set(hanging.started)) == 2
    within(lambda: not list(filter(is_alive, hanging.started)))


# The language, apart from any runner.


def line(**fields: Any) -> bytes:
    return json.dumps({"error": "e", "exit_code": 1, "goes_on": True} | fields).encode() + b"\n"


def test_how_long_an_answer_is_follows_from_its_line(job: Job) -> None:
    begun = json.dumps({"output": {"bytes": 1024}}).encode()
    for start in (b"", begun[:7], begun):
        assert protocol.answer_bytes(start, job) is None
    for more in (b"", bytes(7), bytes(5000)):
        assert protocol.answer_bytes(bytearray(begun + b"\n" + more), job) == len(begun) + 1 + 1024
    assert protocol.answer_bytes(line() + b"more", job) == len(line())
    for long in (bytes(protocol.MAX_LINE_BYTES), bytes(protocol.MAX_LINE_BYTES) + b"\n"):
        with pytest.raises(DeviceError, match="no first line"):
            protocol.answer_bytes(long, job)


def test_a_failure_says_whether_the_runner_goes_on() -> None:
    assert protocol.parse_failure(line(exit_code=142)) == protocol.Failure(142, goes_on=True)
    assert protocol.parse_failure(line(goes_on=False)) == protocol.Failure(1, goes_on=False)
    assert protocol.parse_failure(b'{"output": 1}\nraw') is None
    with pytest.raises(DeviceError, match="raw bytes behind it"):
        protocol.parse_failure(line() + b"x")


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda raw: line()[:-1] + raw))
def test_noise_is_a_device_error_and_nothing_else(noise: bytes) -> None:
    job = Job(Path("x"), np.zeros((1, 4), "float32"), (4,), threads=1)
    for parse in (lambda: protocol.answer_bytes(noise, job), lambda: protocol.parse_failure(noise)):
        with suppress(DeviceError):
            parse()


# Containers.


def test_the_container_command_of_a_session_is_that_of_a_job(host: Target, job: Job) -> None:
    room = commands.room_for(job)
    single = commands.docker_run_command(Engine(), host, "id", "dlas-x", lock.MACHINE, 9, job)
    kept = commands.docker_serve_command(Engine(), host, "id", "dlas-x", lock.MACHINE, 9, 29.5, room)
    place = single.index("id") + 1
    assert (single[place], kept[place]) == ("run", "serve")
    assert kept[-4:] == ["--timeout-s", "30", "--wait-s", "9"]
    assert kept[:place] + kept[place + 1 :] == single[:place] + single[place + 1 :]
    local_job = commands.local_run_command(Path("/r"), "/j", "/l", 3, replace(job, timeout_s=2))
    local_kept = commands.local_serve_command(Path("/r"), "/j", "/l", 3, 2)
    assert local_kept == ["serve" if word == "run" else word for word in local_job]


def test_room_is_for_somewhat_larger_jobs(job: Job) -> None:
    room = commands.room_for(job)
    assert room == commands.Room(*commands.container_mib(job), processes=64)
    larger = commands.room_for(replace(job, output_shape=(1, 4096, 1024)))
    assert not room.holds(larger)
    assert room.doubled.holds(larger)
    assert room.holds(room)
    assert not room.doubled.holds(commands.room_for(replace(job, threads=80)))


def test_each_session_has_a_container_name_of_its_own(tmp_path: Path) -> None:
    with own_name(tmp_path, "x") as one, own_name(tmp_path, "x") as two:
        assert (one, two) == ("x-session1", "x-session2")
    with own_name(tmp_path, "x") as again:
        assert again == one


def containers(device: DockerDevice) -> list[str]:
    return [name for name in engine.at().jobs() if name.startswith(device.name)]


@pytest.mark.docker
def test_a_container_is_kept_for_many_jobs(
    container: DockerDevice, job: Job, untimed: Untimed, expected: Expected, evil: Evil
) -> None:
    identity = replace(job, observe=("/etc/hostname",))  # a container's own id
    names = set()
    with container.session(2) as session:
        for one in (identity, replace(untimed(3), observe=identity.observe), identity):
            result = session.run(one)
            np.testing.assert_allclose(result.outputs, expected(one), rtol=1e-4, atol=1e-4)
            names.add(result.before["/etc/hostname"])
        for act, message in (("abort();", "ended by SIGABRT: last words"), (HANG, "longer than it may")):
            with pytest.raises(DeviceError, match=message):
                session.run(replace(job, module=evil(f'fputs("last words\\n", stderr); {act}')))
            names.add(session.run(identity).before["/etc/hostname"])
        assert containers(container) == [f"{container.name}-session1"]
        assert container.run(job).output_stable  # another one, in between
    assert len(names) == 1
    assert containers(container) == []


@pytest.mark.docker
def test_a_job_that_takes_too_much_memory_costs_only_itself(
    container: DockerDevice, job: Job, evil: Evil
) -> None:
    greedy = evil("for (;;) { char *p = malloc(1 << 20); for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1; }")
    identity = replace(job, observe=("/etc/hostname",))
    with container.session(30) as session:
        before = session.run(identity).before
        with pytest.raises(DeviceError, match="more memory than its container has"):
            session.run(replace(job, module=greedy))
        assert session.run(identity).before == before
    assert containers(container) == []


@pytest.mark.docker
def test_a_larger_job_gets_a_larger_container(
    container: DockerDevice, job: Job, tmp_path: Path, expected: Expected
) -> None:
    large = tmp_path / "large.so"
    large.write_bytes(job.module.read_bytes() + bytes(64 << 20))  # behind the end of the library
    identity = replace(job, observe=("/etc/hostname",))
    with container.session(30) as session:
        small_one = session.run(identity).before
        result = session.run(replace(identity, module=large))
        np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-4, atol=1e-4)
        assert session.run(identity).before == result.before != small_one
        assert len(containers(container)) == 1
    assert containers(container) == []


@pytest.mark.docker
def test_a_container_that_hangs_is_replaced(container: DockerDevice, job: Job, evil: Evil) -> None:
    with replace(container, grace_s=3.0).session(2) as session:
        with pytest.raises(DeviceError, match="no answer within"):
            session.run(replace(job, module=evil(STUBBORN)))
        assert containers(container) == []
        assert session.run(job).output_stable
    assert containers(container) == []
