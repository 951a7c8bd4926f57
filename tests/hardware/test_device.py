"""Devices over the real runner, over runners that lie, and in a real container."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import DeviceBusyError, DeviceError, EngineError, StorageError, TargetError, UsageError
from dlas.hardware import commands, engine, identity, lock
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.engine import Engine
from dlas.hardware.reach import Access, device
from dlas.hardware.runner import Runner
from dlas.values import Job, Target

say = print
Expected = Callable[[Job], np.ndarray]
Untimed = Callable[[int], Job]


def test_a_job_gives_the_output_and_every_time(local: LocalDevice, job: Job, expected: Expected) -> None:
    result = local.run(job)
    np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-5, atol=1e-5)
    assert result.output_stable
    assert (len(result.warmup_ns), len(result.samples_ns)) == (3, 7)
    assert sum(result.warmup_ns + result.samples_ns) < result.run_seconds * 1e9
    assert result.ship_seconds > 0
    assert list(local.scratch.iterdir()) == []


def test_each_input_has_its_own_output(local: LocalDevice, untimed: Untimed, expected: Expected) -> None:
    job = untimed(3)
    result = local.run(job)
    np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-5, atol=1e-5)
    assert result.output_stable  # compared with that of the last input
    assert result.warmup_ns == result.samples_ns == ()


def test_the_last_of_several_inputs_is_timed(local: LocalDevice, job: Job, untimed: Untimed) -> None:
    result = local.run(replace(untimed(3), repeats=job.repeats, warmups=job.warmups))
    assert result.output_stable
    assert (len(result.warmup_ns), len(result.samples_ns)) == (3, 7)
    assert result.outputs.tobytes() == local.run(untimed(3)).outputs.tobytes()


def test_thousands_of_inputs_need_memory_for_their_outputs_only(
    local: LocalDevice, untimed: Untimed, expected: Expected
) -> None:
    job = replace(untimed(20_000), threads=1)
    result = local.run(job)
    np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-4, atol=1e-4)
    more_bytes = result.peak_rss_bytes - local.run(replace(untimed(1), threads=1)).peak_rss_bytes
    assert more_bytes < result.outputs.nbytes + job.inputs.nbytes // 2


def test_what_is_written_to_flush_the_caches_is_in_the_memory_of_the_job(
    local: LocalDevice, job: Job
) -> None:
    flushed = local.run(replace(job, flush_bytes=256 << 20))
    assert len(flushed.samples_ns) == job.repeats
    assert flushed.peak_rss_bytes - local.run(job).peak_rss_bytes > 128 << 20


def test_one_warm_up_is_the_run_that_gave_the_output(local: LocalDevice, job: Job) -> None:
    assert len(local.run(replace(job, warmups=1)).warmup_ns) == 1


def test_the_shell_cannot_change_what_is_timed(
    local: LocalDevice, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    monkeypatch.setenv("LD_PRELOAD", "/no/such/library.so")
    result = local.run(replace(job, threads=3, observe=("/proc/self/environ",)))
    assert result.threads == 3
    assert "LD_PRELOAD" not in result.before["/proc/self/environ"]


@pytest.mark.parametrize(
    ("act", "signal"),
    [("*(volatile int *)0 = 1;", "SIGSEGV"), ("abort();", "SIGABRT"), ("raise(SIGKILL);", "SIGKILL")],
)
def test_a_crash_is_named(
    local: LocalDevice, job: Job, evil: Callable[[str], Path], act: str, signal: str
) -> None:
    crash = evil(f'fputs("last words\\n", stderr); {act}')
    with pytest.raises(DeviceError, match=f"ended by {signal}") as failure:
        local.run(replace(job, module=crash))
    assert any("last words" in note for note in failure.value.__notes__)


def test_a_network_that_hangs_is_ended_by_its_own_clock(
    local: LocalDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    with pytest.raises(DeviceError, match="longer than it may"):
        local.run(replace(job, module=evil("for (;;) pause();"), timeout_s=1))
    assert list(local.scratch.iterdir()) == []


def test_a_module_that_is_gone_is_a_storage_error(local: LocalDevice, job: Job, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="build the artifact again"):
        local.run(replace(job, module=tmp_path / "gone.so"))


Liar = Callable[[str], LocalDevice]


@pytest.fixture
def liar(local: LocalDevice, tmp_path: Path) -> Liar:
    """A device whose runner is a Python script. `answer` there is what an honest one would say."""

    def make(body: str) -> LocalDevice:
        folder = tmp_path / "liar"
        folder.mkdir()
        script = folder / "runner"
        script.write_text(f"#!{sys.executable}\n{HONEST}\n{body}\n")
        script.chmod(0o755)
        return replace(local, program=Runner(folder, "liar"), grace_s=0.5)

    return make


HONEST = """
import json, os, signal, sys, tarfile, time
answer = {
    "protocol": 4, "samples_ns": [1] * 7, "warmup_ns": [1] * 3, "threads": 2, "output_stable": True,
    "output": {"count": 1, "shape": [4, 64], "dtype": "float32", "bytes": 1024},
    "cpu_set": "0", "gpu": "", "peak_rss_bytes": 1, "before": {}, "after": {}, "wait_ns": 0, "run_ns": 1,
}
def say(answer, raw=bytes(1024), code=0):
    list(tarfile.open(fileobj=sys.stdin.buffer, mode="r|", bufsize=512))  # its end comes with ours
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\\n" + raw)
    sys.stdout.flush()
    os._exit(code)
"""


def test_the_liar_can_tell_the_truth(liar: Liar, job: Job) -> None:
    assert liar("say(answer)").run(job).samples_ns == (1,) * 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("say(answer, bytes(1020))", "1020 bytes, 1024 were expected"),
        ("say(answer, bytes(1025))", "1025 bytes, 1024 were expected"),
        ("say(answer, bytes(3 << 20))", "longer than"),
        ("say(answer | {'samples_ns': [float('nan')] * 7})", "not the JSON"),
        ("say(answer | {'samples_ns': [1] * 150})", "150 entries, 7 were asked"),
        ("say(answer | {'run_ns': 100 * 10**9})", "'run_ns' is not a number of 1 to"),
        ("say(answer | {'wait_ns': 100 * 10**9})", "'wait_ns' is not a number of 0 to"),
        ("print('hello')", "not the JSON"),
        ("pass", "no first line"),
        ("while True: os.write(1, bytes(1 << 16))", "longer than"),
        ("while True: os.write(2, bytes(1 << 16))", "no answer within"),
        ("time.sleep(60)", "no answer within"),
        ("os.close(0); time.sleep(60)", "no answer within"),
        ("os.close(0); os.close(1); os.close(2); time.sleep(60)", "no answer within"),
        ("os.fork() and os._exit(0)\nos.setsid(); time.sleep(4)", "no answer within"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("say(answer, code=1)", "the runner gave no reason"),
        ("print('why not', file=sys.stderr); sys.exit(3)", "why not"),
        ("say({'error': 'because \\x1b[2J of this'}, b'', 1)", "because \ufffd.2J of this"),
        ("say({'error': ['x']}, b'', 1)", "the runner gave no reason"),
        ("sys.stderr.write('\\x1b[2J' * 100000); sys.exit(1)", "\ufffd.2J"),
    ],
)
def test_a_runner_that_lies_cannot_hurt(liar: Liar, job: Job, body: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceError, match=message) as failure:
        liar(body).run(replace(job, timeout_s=0.5))
    assert time.monotonic() - began < 20
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 1000


def is_alive(pid: str) -> bool:
    """Not gone, and not a zombie that its new parent has yet to bury."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_nothing_of_a_hanging_runner_is_left(liar: Liar, job: Job, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"os.fork()\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\ntime.sleep(60)"
    with pytest.raises(DeviceError, match="no answer within"):
        liar(body).run(replace(job, timeout_s=2))  # on a busy machine, Python takes a while to start
    started = pids.read_text().split()
    assert len(started) == 2
    # Both are killed before this, but only ours is waited for: the other one may take a moment to go.
    deadline = time.monotonic() + 10
    while any(map(is_alive, started)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in started if is_alive(pid)]


def test_a_runner_that_does_not_start_is_a_device_error(local: LocalDevice, job: Job, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="does not start"):
        replace(local, program=Runner(tmp_path, "none")).run(job)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_a_device_runs_one_job_at_a_time(local: LocalDevice, job: Job) -> None:
    with held(Path(local.lock)), pytest.raises(DeviceBusyError, match="busy") as failure:
        local.run(job)
    assert failure.value.exit_code == 75
    assert local.run(job).output_stable


def test_a_device_waits_for_its_lock(local: LocalDevice, job: Job) -> None:
    said: list[str] = []
    descriptor = os.open(local.lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    timer = threading.Timer(0.5, os.close, (descriptor,))
    timer.start()
    assert replace(local, wait_s=20, say=said.append).run(job).output_stable
    assert not timer.is_alive()
    assert said == ["test_host: waiting for another job to leave the device"]


def test_the_folder_of_names_is_the_users(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        folder = lock.lock_folder(tmp_path)
    finally:
        os.umask(previous)
    assert folder == tmp_path / f"dlas-{os.getuid()}" == lock.lock_folder(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/etc")])
def test_a_lock_folder_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / f"dlas-{os.getuid()}")
    with pytest.raises(StorageError, match="dlas-"):
        lock.lock_folder(tmp_path)


def test_the_fingerprint_is_that_of_the_machine() -> None:
    files = {
        identity.MACHINE_ID: "f00\n",
        identity.BOOT_ID: "b00t\n",
        identity.CPU_INFO: "processor : 0\nmodel name\t: A CPU @ 1 GHz\ncpu MHz : 998.1\n",
        identity.CPUS: "0-3\n",
    }
    facts = identity.facts(files)
    assert facts.cpu_model == "A CPU @ 1 GHz"
    assert facts == identity.facts(files | {identity.BOOT_ID: "after a reboot"})
    others = [{identity.MACHINE_ID: "0f0"}, {identity.CPU_INFO: "model name: B"}, {identity.CPUS: "0-1"}]
    prints = {facts.fingerprint, *(identity.facts(files | other).fingerprint for other in others)}
    assert len(prints) == 4
    assert "f00" not in repr(facts)
    no_id = identity.facts(files | {identity.MACHINE_ID: ""})
    assert no_id.fingerprint not in prints
    assert "b00t" not in repr(no_id)
    with pytest.raises(DeviceError, match="machine-id"):
        identity.facts({identity.CPUS: "0"})


def test_a_local_device_knows_its_machine(local: LocalDevice) -> None:
    assert local.probe() == local.probe()
    assert local.probe().files[identity.CPUS]


def test_the_container_command(host: Target, job: Job) -> None:
    assert job.module.stat().st_size < 1 << 20
    command = commands.docker_run_command(Engine(), host, "sha256:abc", "dlas-x", lock.MACHINE, 9, job)
    assert command[1:] == [
        "--host=unix:///var/run/docker.sock",
        "run",
        "--rm",
        "--interactive",
        "--init",
        "--pull=never",
        "--log-driver=none",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--user=10001:10001",
        "--name=dlas-x",
        "--label=dlas.job=test_host",
        "--tmpfs=/job:rw,exec,nosuid,size=17m,mode=1777",
        "--memory=537m",
        "--memory-swap=537m",
        "--pids-limit=64",
        "--volume=/run/lock:/lock:ro",
        "sha256:abc",
        "run",
        "--dir",
        "/job",
        "--lock",
        "/lock",
        "--timeout-s",
        "30",
        "--wait-s",
        "9",
    ]


def test_the_container_command_of_a_board(host: Target, job: Job) -> None:
    board = replace(
        host.board,
        cpu_set="4-7",
        devices=("/dev/mali0",),
        mounts=("/vendor:/vendor:ro",),
        groups=("video", "44"),
        container_runtime="nvidia",
    )
    target = replace(host, board=board)
    many = replace(job, threads=80)
    remote = Engine("ssh://board")
    command = commands.docker_run_command(remote, target, "id", "n", "/l", 9, many)
    assert command[1] == "--host=ssh://board"
    assert command[command.index("--lock") + 1] == "/lock"
    assert command[command.index("--memory-swap=537m") + 1 : command.index("id")] == [
        "--pids-limit=96",
        "--cpuset-cpus=4-7",
        "--volume=/l:/lock:ro",
        "--device=/dev/mali0",
        "--volume=/vendor:/vendor:ro",
        "--group-add=video",
        "--group-add=44",
        "--runtime=nvidia",
    ]


@pytest.mark.parametrize(
    ("kind", "volumes"), [("opencl", ["--volume=dlas-kernels:/opt/dlas/kernels"]), ("cuda", []), ("llvm", [])]
)
def test_a_container_keeps_what_its_device_compiles(
    host: Target, job: Job, kind: str, volumes: list[str]
) -> None:
    target = replace(host, compiler=replace(host.compiler, kind=kind))
    room = commands.room_for(job)
    single = commands.docker_run_command(Engine(), target, "id", "n", "/l", 9, job)
    served = commands.docker_serve_command(Engine(), target, "id", "n", "/l", 9, 9, room)
    for command in (single, served):
        at = command.index("--volume=/l:/lock:ro") + 1
        assert command[at : command.index("id")] == volumes
    assert commands.kernels_folder(target) == ("/opt/dlas/kernels" if volumes else "")


def test_the_local_command(job: Job) -> None:
    short = replace(job, timeout_s=0.2)
    command = commands.local_run_command(Path("/r/runner"), "/jobs/1", "/l", 3, short)
    assert command == [
        "/r/runner",
        "run",
        "--dir",
        "/jobs/1",
        "--lock",
        "/l",
        "--timeout-s",
        "1",
        "--wait-s",
        "3",
    ]


def test_a_container_has_memory_for_one_input_and_all_outputs(job: Job) -> None:
    images = replace(job, inputs=np.broadcast_to(np.float32(0), (1000, 1, 3, 224, 224)))
    one = replace(images, inputs=images.inputs[:1])
    assert commands.container_mib(one) == (17, 17 + 4 * 2 + 512)
    assert commands.container_mib(replace(images, output_shape=(1, 8))) == commands.container_mib(one)
    large = replace(images, output_shape=(1, 256, 1024))  # 1000 MiB of outputs
    assert commands.container_mib(large) == (17, 17 + 4 * (1 + 1001) + 512)


@pytest.mark.parametrize(
    ("runners", "asked", "error", "message"),
    [
        (("local", "docker"), "podman", UsageError, "unknown runner 'podman'; choose from auto"),
        (("local",), "docker", TargetError, "test_host: it has no runner 'docker'; choose from local"),
        ((), "auto", TargetError, "test_host: it can be compiled for, but not measured on"),
    ],
)
def test_a_runner_that_cannot_be_is_refused(
    host: Target, tmp_path: Path, runners: tuple[str, ...], asked: str, error: type[Exception], message: str
) -> None:
    target = replace(host, board=replace(host.board, runners=runners))
    with pytest.raises(error, match=message):
        device(target, Access(asked), tmp_path, say)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")


@pytest.mark.usefixtures("no_engine", "program")
def test_without_an_engine_auto_is_local_and_docker_an_error(host: Target, artifacts: Path) -> None:
    found, why = device(host, Access(), artifacts, say)
    assert found.runner == "local"
    assert found.image.id == ""
    assert why.startswith("local: no Docker engine answers: ")
    assert device(host, Access("local"), artifacts, say)[1] == "local: as asked"
    with pytest.raises(EngineError, match=r"no Docker engine answers: .*; start it, or use --runner local"):
        device(host, Access("docker"), artifacts, say)
    only_docker = replace(host, board=replace(host.board, runners=("docker",)))
    with pytest.raises(EngineError):
        device(only_docker, Access(), artifacts, say)


@pytest.mark.docker
def test_a_container_gives_what_the_machine_gives(
    container: DockerDevice, local: LocalDevice, job: Job, expected: Expected
) -> None:
    result = container.run(job)
    np.testing.assert_allclose(result.outputs, expected(job), rtol=1e-5, atol=1e-5)
    assert result.outputs.tobytes() == local.run(job).outputs.tobytes()
    assert (len(result.warmup_ns), len(result.samples_ns), result.threads) == (3, 7, 2)
    assert result.run_seconds > 0 < result.ship_seconds


@pytest.mark.docker
@pytest.mark.parametrize("count", [3, 3000])
def test_each_input_has_its_own_output_in_a_container(
    container: DockerDevice, untimed: Untimed, expected: Expected, count: int
) -> None:
    result = container.run(untimed(count))
    np.testing.assert_allclose(result.outputs, expected(untimed(count)), rtol=1e-4, atol=1e-4)
    assert result.output_stable


@pytest.mark.docker
def test_a_container_and_its_machine_are_one_device(container: DockerDevice, local: LocalDevice) -> None:
    assert container.probe() == local.probe()


@pytest.mark.docker
def test_a_container_is_sealed(container: DockerDevice, job: Job) -> None:
    seen = container.run(
        replace(job, observe=("/proc/self/status", "/proc/net/dev", "/proc/self/mounts", "/job/*", "/lock/*"))
    ).after
    status = dict(line.split(":\t", 1) for line in seen["/proc/self/status"].splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # the engine's default filter
    assert [line.split(":")[0].strip() for line in seen["/proc/net/dev"].splitlines()[2:]] == ["lo"]
    mounts = {line.split()[1]: line.split()[3].split(",") for line in seen["/proc/self/mounts"].splitlines()}
    assert "ro" in mounts["/"]
    assert "ro" in mounts["/lock"]
    assert {"rw", "nosuid"} < set(mounts["/job"])
    assert not [path for path in seen if path.startswith("/job/")]  # removed once it was mapped


@pytest.mark.docker
def test_the_cpu_set_of_the_board_holds_in_a_container(container: DockerDevice, job: Job) -> None:
    cpu = str(max(os.sched_getaffinity(0)))
    target = replace(container.target, board=replace(container.target.board, cpu_set=cpu))
    assert replace(container, target=target).run(job).cpu_set == cpu


@pytest.mark.docker
def test_a_container_and_its_machine_share_a_lock(
    container: DockerDevice, local: LocalDevice, job: Job
) -> None:
    with held(Path(local.lock)), pytest.raises(DeviceBusyError):
        replace(container, lock=local.lock).run(job)


@pytest.mark.docker
def test_a_crash_in_a_container_is_named(
    container: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    with pytest.raises(DeviceError, match="ended by SIGSEGV"):
        container.run(replace(job, module=evil("signal(SIGSEGV, SIG_DFL); raise(SIGSEGV);")))


@pytest.mark.docker
def test_a_container_has_no_more_memory_than_its_share(
    container: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    greedy = evil("for (;;) { char *p = malloc(1 << 20); for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1; }")
    with pytest.raises(DeviceError, match="more memory than its container has"):
        container.run(replace(job, module=greedy))


def exists(name: str) -> bool:
    return name in engine.at().jobs()


@pytest.mark.docker
def test_a_container_that_hangs_is_ended_and_removed(
    container: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    stubborn = evil("signal(SIGALRM, SIG_IGN); signal(SIGTERM, SIG_IGN); for (;;) pause();")
    with pytest.raises(DeviceError, match="no answer within"):
        replace(container, grace_s=1.0).run(replace(job, module=stubborn, timeout_s=1))
    assert not exists(container.name)


@pytest.mark.docker
def test_a_container_that_a_killed_client_left_is_removed(container: DockerDevice, job: Job) -> None:
    # Its input never ends, so that it would live for ever.
    left = ["create", "--interactive", f"--name={container.name}", f"--label={engine.JOB_LABEL}=x"]
    container.engine.ask(*left, container.image.id, "probe")
    container.engine.ask("start", container.name)
    assert exists(container.name)
    assert container.run(job).output_stable
    assert not exists(container.name)


@pytest.mark.docker
def test_with_engine_and_image_auto_is_docker(container: DockerDevice, host: Target, artifacts: Path) -> None:
    found, why = device(host, Access(), artifacts, say)
    assert (found.runner, found.image) == ("docker", container.image)
    assert "dlas/test_host" in why


@pytest.mark.docker
def test_an_absent_image_is_named(host: Target, artifacts: Path, program: Runner) -> None:
    absent = replace(host, name="absent_host")
    with pytest.raises(EngineError, match="absent_host: image absent; run inv build --target th"):
        device(absent, Access("docker"), artifacts, say)
    assert device(absent, Access(), artifacts, say)[1] == "local: absent_host: image absent"


@pytest.mark.docker
@pytest.mark.usefixtures("container")
def test_an_image_with_another_runner_is_refused(
    host: Target, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlas.hardware.reach.interface_key", lambda target: "of a later version")
    with pytest.raises(EngineError, match="another runner than this version's; run inv build --target th"):
        device(host, Access("docker"), artifacts, say)
