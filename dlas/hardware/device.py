"""Devices: where a job runs. All run the same program over the same protocol and take the same lock."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dlas.cache import temporary_folder
from dlas.errors import DeviceBusyError, DeviceError, DeviceLostError, EngineError
from dlas.hardware import commands, engine, identity, protocol
from dlas.hardware.engine import Engine
from dlas.hardware.lock import MACHINE, WAIT_S, hold
from dlas.hardware.process import Exit, exchange
from dlas.hardware.runner import Runner
from dlas.values import NO_IMAGE, ContainerImage, DeviceFacts, Job, JobResult, Target

_PROBE_S = 60.0
_BUSY = 75
_ENGINE_FAILED = (125, 126, 127)  # docker run: the engine refused, the program cannot be run, is not there
_SHELL_SIGNAL = 128
_WAITING = "waiting for"

Say = Callable[[str], None]


def _silent(line: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class LocalDevice:
    """The runner as a child process on this machine. scratch: where each job gets a folder."""

    target: Target
    program: Runner
    scratch: Path
    lock: str = MACHINE
    wait_s: int = WAIT_S
    say: Say = _silent
    grace_s: float = 5.0  # for the process to start and end, on top of the job's own time

    @property
    def runner(self) -> str:
        return "local"

    @property
    def emulated(self) -> bool:
        return False

    @property
    def image(self) -> ContainerImage:
        return NO_IMAGE

    def probe(self) -> DeviceFacts:
        """Raises DeviceError."""
        return identity.facts(self.observe(identity.FILES))

    def observe(self, patterns: Sequence[str], lock: str = "") -> dict[str, str]:
        """Contents of files, by path. Raises DeviceError; with a lock, DeviceBusyError while a job runs."""
        command = commands.local_probe_command(self.program.binary, lock)
        return _observe(self.target, command, patterns, _clean_environment())

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError, DeviceBusyError or StorageError."""
        with temporary_folder(self.scratch) as folder:
            binary = self.program.binary
            command = commands.local_run_command(binary, str(folder), self.lock, self.wait_s, job)
            most_s = self.wait_s + job.timeout_s + self.grace_s
            return _run(self.target, job, command, most_s, _clean_environment(), self.say)


@dataclass(frozen=True)
class DockerDevice:
    """The runner in a container of its own for each job.

    name: the container's, one for each checkout of each machine. locks: the folder where jobs of this
    checkout wait for that name.
    """

    target: Target
    engine: Engine
    image: ContainerImage
    name: str
    locks: Path
    lock: str = MACHINE  # of the engine's machine
    emulated: bool = False
    wait_s: int = WAIT_S
    say: Say = _silent
    grace_s: float = 60.0  # for the engine to start and remove the container, on top of the job's own time

    @property
    def runner(self) -> str:
        return "docker"

    def probe(self) -> DeviceFacts:
        """Raises DeviceError or EngineError."""
        try:
            # An image has no machine-id of its own machine.
            files = self.observe(identity.FILES, mounts=(identity.MACHINE_ID,))
        except EngineError as error:
            if identity.MACHINE_ID not in error.cause:
                raise
            files = self.observe(identity.FILES)
        return identity.facts(files, self.emulated)

    def observe(self, patterns: Sequence[str], lock: str = "", mounts: Sequence[str] = ()) -> dict[str, str]:
        """Contents of files, by path. mounts: those that a container does not see else.

        With a lock, raises DeviceBusyError while a job runs; else DeviceError or EngineError, which names a
        mount that is not there.
        """
        command = commands.docker_probe_command(self.engine, self.image.id, self.target.board, mounts, lock)
        return _observe(self.target, command, patterns, engine.environment())

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError, DeviceBusyError, EngineError or StorageError."""
        with hold(self.locks / f"{self.name}.lock", self.wait_s):
            # Who holds the name's lock owns the name: a container that has it was left by a killed client.
            self.engine.remove_container(self.name)
            command = commands.docker_run_command(
                self.engine, self.target, self.image.id, self.name, self.lock, self.wait_s, job
            )
            try:
                most_s = self.wait_s + job.timeout_s + self.grace_s
                return _run(self.target, job, command, most_s, engine.environment(), self.say)
            except BaseException:
                # Where that fails too, it ends by itself, as its stdin has, or goes before the next job.
                with suppress(EngineError):
                    self.engine.remove_container(self.name)
                raise


def _clean_environment() -> dict[str, str]:
    """Nothing of the shell's: OMP_NUM_THREADS, LD_PRELOAD and their like would change what is timed."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _run(
    target: Target, job: Job, command: Sequence[str], most_s: float, env: Mapping[str, str], say: Say
) -> JobResult:
    said = False

    def heard(line: str) -> None:
        nonlocal said
        if line.startswith(_WAITING) and not said:  # a runner that lies could say it for ever
            say(f"{target.name}: {protocol.one_line(line)}")
            said = True

    limit_bytes = protocol.MAX_LINE_BYTES + protocol.outputs_bytes(job) + 1
    chunks = protocol.encode_job(job, target.board.cpu_set)
    start_ns = time.monotonic_ns()
    ended = _answer(target, command, chunks, limit_bytes, most_s, env, hold=True, heard=heard)
    wall_ns = time.monotonic_ns() - start_ns
    return protocol.parse_answer(ended.stdout, job, wall_ns, protocol.printable(ended.log))


def _observe(
    target: Target, command: Sequence[str], patterns: Sequence[str], env: Mapping[str, str]
) -> dict[str, str]:
    question = [protocol.encode_probe(tuple(patterns))]
    return protocol.parse_probe(
        _answer(target, command, question, protocol.MAX_LINE_BYTES, _PROBE_S, env).stdout
    )


def _answer(
    target: Target,
    command: Sequence[str],
    chunks: Iterable[bytes],
    limit_bytes: int,
    most_s: float,
    env: Mapping[str, str],
    hold: bool = False,
    heard: Say = _silent,
) -> Exit:
    ended = exchange(
        command, chunks, limit_bytes=limit_bytes, timeout_s=most_s, env=env, hold=hold, heard=heard
    )
    if ended.returncode != 0:
        _raise_failure(target, ended)
    return ended


def _raise_failure(target: Target, ended: Exit) -> NoReturn:
    """Why a runner, or the engine that should have started it, ended without an answer."""
    said = protocol.parse_error(ended.stdout)
    last = protocol.one_line(_last_words(ended.log))
    name = signal_name(ended.returncode)
    error: DeviceError | EngineError
    if ended.returncode == _BUSY:
        error = DeviceBusyError(
            f"{target.name}: {said}", "wait for the other job to end, or longer with --wait"
        )
    elif not said and (why := engine.why_unreachable(ended.log)):
        error = DeviceLostError(f"{target.name}: its engine is gone: {why}", "see that the device is up")
    elif ended.returncode in _ENGINE_FAILED:
        error = EngineError(f"{target.name}: the container did not start: {last}", "see `inv doctor`")
    elif name == "SIGALRM":
        error = DeviceError(f"{target.name}: the job took longer than it may", "give it more time")
    elif name == "SIGKILL" and not said:
        error = DeviceLostError(
            f"{target.name}: its job was ended by SIGKILL, and not by itself", "try again"
        )
    elif name:
        cause = said or f"the runner was ended by {name}"
        error = DeviceError(
            f"{target.name}: {cause}: {last}" if last else f"{target.name}: {cause}", "see its log"
        )
    else:
        error = DeviceError(f"{target.name}: {said or last or 'the runner gave no reason'}", "see its log")
    error.add_note(protocol.printable(ended.log))
    raise error


def _last_words(log: str) -> str:
    """The last line that says something: the docker command ends with where to find its help."""
    lines = [line for line in log.splitlines() if not line.startswith(engine.HELP)]
    return next((line for line in reversed(lines) if line.strip(" .")), "")


def signal_name(returncode: int) -> str:
    """Of the signal that ended a child or, as a container's init tells it, a child of the child.

    >>> signal_name(-11), signal_name(139), signal_name(1)
    ('SIGSEGV', 'SIGSEGV', '')
    """
    number = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    return signal.Signals(number).name if number in set(signal.Signals) else ""
