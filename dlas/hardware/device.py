"""Devices: where a job runs. All run the same program over the same protocol and take the same lock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dlas.cache import temporary_folder
from dlas.errors import EngineError
from dlas.hardware import commands, engine, identity, protocol
from dlas.hardware.engine import Engine
from dlas.hardware.failures import Say, raise_failure, silent, tell_waiting
from dlas.hardware.lock import MACHINE, WAIT_S, hold
from dlas.hardware.process import Exit, converse, exchange
from dlas.hardware.runner import Runner
from dlas.hardware.session import RunnerSession, Serving, own_name
from dlas.values import NO_IMAGE, ContainerImage, DeviceFacts, Job, JobResult, Target

_PROBE_S = 60.0


@dataclass(frozen=True)
class LocalDevice:
    """The runner as a child process on this machine.

    scratch: where each job gets a folder. kernels: where a GPU's compiled kernels are kept, empty for a CPU.
    """

    target: Target
    program: Runner
    scratch: Path
    lock: str = MACHINE
    wait_s: int = WAIT_S
    say: Say = silent
    grace_s: float = 5.0  # for the process to start and end, on top of the job's own time
    kernels: str = ""

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
            chunks = protocol.encode_job(job, self.target, self.kernels)
            return _run(self.target, job, chunks, command, most_s, _clean_environment(), self.say)

    def session(self, timeout_s: float) -> RunnerSession:
        """A runner that is kept for many jobs, each with timeout_s whatever its own is."""
        most_s = self.wait_s + timeout_s + self.grace_s
        return RunnerSession(
            self.target, lambda job: self._serve(timeout_s), timeout_s, most_s, self.say, self.kernels
        )

    @contextmanager
    def _serve(self, timeout_s: float) -> Iterator[Serving]:
        with temporary_folder(self.scratch) as folder:
            binary = self.program.binary
            command = commands.local_serve_command(binary, str(folder), self.lock, self.wait_s, timeout_s)
            with converse(command, _clean_environment()) as child:
                yield Serving(child, has_room=lambda job: True)


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
    say: Say = silent
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
                chunks = protocol.encode_job(job, self.target, commands.kernels_folder(self.target))
                return _run(self.target, job, chunks, command, most_s, engine.environment(), self.say)
            except BaseException:
                # Where that fails too, it ends by itself, as its stdin has, or goes before the next job.
                with suppress(EngineError):
                    self.engine.remove_container(self.name)
                raise

    def session(self, timeout_s: float) -> RunnerSession:
        """A container that is kept for many jobs, each with timeout_s whatever its own is.

        It has a name of its own, so that single jobs go in between.
        """
        most_s = self.wait_s + timeout_s + self.grace_s
        kernels = commands.kernels_folder(self.target)
        return RunnerSession(
            self.target, lambda job: self._serve(job, timeout_s), timeout_s, most_s, self.say, kernels
        )

    @contextmanager
    def _serve(self, job: Job, timeout_s: float) -> Iterator[Serving]:
        room = commands.room_for(job).doubled
        with own_name(self.locks, self.name) as name:
            self.engine.remove_container(name)
            command = commands.docker_serve_command(
                self.engine, self.target, self.image.id, name, self.lock, self.wait_s, timeout_s, room
            )
            try:
                with converse(command, engine.environment()) as child:
                    yield Serving(child, has_room=lambda other: room.holds(commands.room_for(other)))
            finally:
                # Where that fails, it ends by itself, as its stdin has, or goes before the next one.
                with suppress(EngineError):
                    self.engine.remove_container(name)


def _clean_environment() -> dict[str, str]:
    """Nothing of the shell's: OMP_NUM_THREADS, LD_PRELOAD and their like would change what is timed."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _run(
    target: Target,
    job: Job,
    chunks: Iterable[bytes],
    command: Sequence[str],
    most_s: float,
    env: Mapping[str, str],
    say: Say,
) -> JobResult:
    limit_bytes, heard = protocol.limit_bytes(job), tell_waiting(target, say)
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
    heard: Say = silent,
) -> Exit:
    ended = exchange(
        command, chunks, limit_bytes=limit_bytes, timeout_s=most_s, env=env, hold=hold, heard=heard
    )
    if ended.returncode != 0:
        raise_failure(target, ended)
    return ended
