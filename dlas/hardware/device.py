"""Devices: where a job runs. All run the same program over the same protocol and take the same lock."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dlas.cache import digest, temporary_folder
from dlas.errors import DeviceBusyError, DeviceError, EngineError, TargetError, UsageError
from dlas.hardware import commands, engine, identity, lock, protocol
from dlas.hardware.process import Exit, exchange
from dlas.hardware.runner import Runner, build_runner, runner_key
from dlas.values import Device, DeviceFacts, Job, JobResult, Target

RUNNERS = ("auto", "local", "docker")
LOCK_WAIT_S = 300  # how long a job waits for another one to leave the device
_PROBE_S = 60.0
_BUSY = 75
_ENGINE_FAILED = (125, 126, 127)  # docker run: the engine refused, the program cannot be run, is not there
_SHELL_SIGNAL = 128


def device(target: Target, runner: str, artifacts: Path) -> tuple[Device, str]:
    """A device that can run jobs on a target, and a line that says which one and why.

    runner: local, docker, or auto, which is docker when an engine has this runner's image, else local.
    Raises UsageError, TargetError, BuildError, EngineError or StorageError.
    """
    _check(target, runner)
    why = "as asked" if runner == "local" else "the target has no other runner"
    if runner != "local" and "docker" in target.board.runners:
        try:
            found = docker_device(target, artifacts)
            return found, f"docker: engine {engine.version()} has the image {target.image_tag}"
        except EngineError as error:
            if runner == "docker" or "local" not in target.board.runners:
                raise
            why = error.cause
    return local_device(target, artifacts), f"local: {why}"


def local_device(target: Target, artifacts: Path) -> LocalDevice:
    """This machine, with the runner built if it is not there. Raises BuildError or StorageError."""
    return LocalDevice(target, build_runner(target, artifacts), artifacts / "jobs", lock.lock_folder())


def docker_device(target: Target, artifacts: Path) -> DockerDevice:
    """This machine through its container engine. Raises EngineError when engine or image is missing."""
    next_step = f"run {engine.build_hint(target)}"
    image = engine.find_image(target.image_tag)
    if image is None:
        raise EngineError(f"{target.name}: image absent", next_step)
    if image.labels.get(engine.RUNNER_LABEL) != runner_key(target):
        raise EngineError(f"{target.name}: the image holds another runner than this version's", next_step)
    checkout = digest(str(artifacts.resolve()), str(os.getuid()))[:8]
    return DockerDevice(target, str(image.id), f"dlas-{target.name}-{checkout}", lock.lock_folder())


@dataclass(frozen=True)
class LocalDevice:
    """The runner as a child process on this machine. scratch: where each job gets a folder."""

    target: Target
    program: Runner
    scratch: Path
    locks: Path
    wait_s: int = LOCK_WAIT_S
    grace_s: float = 5.0  # for the process to start and end, on top of the job's own time

    @property
    def runner(self) -> str:
        return "local"

    @property
    def image_id(self) -> str:
        return ""

    def probe(self) -> DeviceFacts:
        """Raises DeviceError."""
        return _probe(self.target, [str(self.program.binary), "probe"], _clean_environment())

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError, DeviceBusyError or StorageError."""
        with temporary_folder(self.scratch) as folder:
            binary = self.program.binary
            command = commands.local_run_command(binary, str(folder), self.locks, self.wait_s, job)
            most_s = self.wait_s + job.timeout_s + self.grace_s
            return _run(self.target, job, command, most_s, _clean_environment())


@dataclass(frozen=True)
class DockerDevice:
    """The runner in a container of its own for each job. name: the container's, one for each checkout."""

    target: Target
    image_id: str
    name: str
    locks: Path
    wait_s: int = LOCK_WAIT_S
    grace_s: float = 60.0  # for the engine to start and remove the container, on top of the job's own time

    @property
    def runner(self) -> str:
        return "docker"

    def probe(self) -> DeviceFacts:
        """Raises DeviceError or EngineError."""
        command = commands.docker_probe_command(engine.cli(), self.image_id)
        return _probe(self.target, command, engine.environment())

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError, DeviceBusyError, EngineError or StorageError."""
        with lock.hold(self.locks / f"{self.name}.lock", self.wait_s):
            # Who holds the name's lock owns the name: a container that has it was left by a killed client.
            engine.remove_container(self.name)
            command = commands.docker_run_command(
                engine.cli(), self.target, self.image_id, self.name, self.locks, self.wait_s, job
            )
            try:
                most_s = self.wait_s + job.timeout_s + self.grace_s
                return _run(self.target, job, command, most_s, engine.environment())
            except BaseException:
                with suppress(EngineError):  # then it goes before the next job
                    engine.remove_container(self.name)
                raise


def _check(target: Target, runner: str) -> None:
    possible = target.board.runners
    if runner not in RUNNERS:
        raise UsageError(f"unknown runner {runner!r}", f"choose from {', '.join(RUNNERS)}")
    if not possible:
        raise TargetError(
            f"{target.name}: it can be compiled for, but not measured on", "choose another target"
        )
    if runner not in ("auto", *possible):
        raise TargetError(f"{target.name}: it has no runner {runner!r}", f"choose from {', '.join(possible)}")


def _clean_environment() -> dict[str, str]:
    """Nothing of the shell's: OMP_NUM_THREADS, LD_PRELOAD and their like would change what is timed."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _run(
    target: Target, job: Job, command: Sequence[str], most_s: float, env: Mapping[str, str]
) -> JobResult:
    limit_bytes = protocol.MAX_LINE_BYTES + protocol.outputs_bytes(job) + 1
    chunks = protocol.encode_job(job, target.board.cpu_set)
    start_ns = time.monotonic_ns()
    ended = _answer(target, command, chunks, limit_bytes, most_s, env)
    wall_ns = time.monotonic_ns() - start_ns
    return protocol.parse_answer(ended.stdout, job, wall_ns, protocol.printable(ended.log))


def _probe(target: Target, command: Sequence[str], env: Mapping[str, str]) -> DeviceFacts:
    question = [protocol.encode_probe(identity.FILES)]
    ended = _answer(target, command, question, protocol.MAX_LINE_BYTES, _PROBE_S, env)
    return identity.facts(protocol.parse_probe(ended.stdout))


def _answer(
    target: Target,
    command: Sequence[str],
    chunks: Iterable[bytes],
    limit_bytes: int,
    most_s: float,
    env: Mapping[str, str],
) -> Exit:
    ended = exchange(command, chunks, limit_bytes=limit_bytes, timeout_s=most_s, env=env)
    if ended.returncode != 0:
        _raise_failure(target, ended)
    return ended


def _raise_failure(target: Target, ended: Exit) -> NoReturn:
    """Why a runner, or the engine that should have started it, ended without an answer."""
    said = protocol.parse_error(ended.stdout)
    last = protocol.one_line(ended.log.strip().rpartition("\n")[2])
    name = signal_name(ended.returncode)
    error: DeviceError | EngineError
    if ended.returncode == _BUSY:
        error = DeviceBusyError(f"{target.name}: {said}", "wait for the other job to end")
    elif ended.returncode in _ENGINE_FAILED:
        error = EngineError(f"{target.name}: the container did not start: {last}", "build its image again")
    elif name == "SIGALRM":
        error = DeviceError(f"{target.name}: the job took longer than it may", "give it more time")
    elif name:
        error = DeviceError(f"{target.name}: the runner was ended by {name}: {last}", "see its log")
    else:
        error = DeviceError(f"{target.name}: {said or last or 'the runner gave no reason'}", "see its log")
    error.add_note(protocol.printable(ended.log))
    raise error


def signal_name(returncode: int) -> str:
    """Of the signal that ended a child or, as a container's init tells it, a child of the child.

    >>> signal_name(-11), signal_name(139), signal_name(1)
    ('SIGSEGV', 'SIGSEGV', '')
    """
    number = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    return signal.Signals(number).name if number in set(signal.Signals) else ""
