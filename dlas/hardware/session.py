"""A session on a device: one runner that is kept for one job after another, as in a search for schedules.

What a job breaks ends with it, as the runner forks for each. Where its answers can no longer be followed the
runner is ended, and the next job starts another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from dlas.errors import DeviceBusyError, DeviceError
from dlas.hardware import protocol
from dlas.hardware.failures import Say, raise_failure, tell_waiting
from dlas.hardware.lock import hold
from dlas.hardware.process import Child, Exit, Reply
from dlas.values import Job, JobResult, Target

_NAMES = 16  # of containers, for the sessions of one checkout on one machine


@dataclass(frozen=True)
class Serving:
    """A runner that serves. has_room: whether it may have as much as a job needs."""

    child: Child
    has_room: Callable[[Job], bool]


class RunnerSession:
    """See `values.Session`. No runner is left behind after its block.

    start: a runner with room for a job and somewhat larger ones, for the length of a block. timeout_s: what
    each job may take. most_s: until its answer must be there. kernels: as in `protocol.encode_job`.
    """

    def __init__(
        self,
        target: Target,
        start: Callable[[Job], AbstractContextManager[Serving]],
        timeout_s: float,
        most_s: float,
        say: Say,
        kernels: str = "",
    ) -> None:
        self._target = target
        self._start = start
        self._timeout_s = timeout_s
        self._most_s = most_s
        self._say = say
        self._kernels = kernels
        self._stack = ExitStack()
        self._serving: Serving | None = None

    def __enter__(self) -> RunnerSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError, DeviceBusyError, EngineError or StorageError; the next job is not affected."""
        job = replace(job, timeout_s=self._timeout_s)
        chunks = protocol.encode_job(job, self._target, self._kernels)
        start_ns = time.monotonic_ns()
        child, goes_on = self._ready(job), False
        try:
            reply = child.ask(
                chunks,
                lambda begun: protocol.answer_bytes(begun, job),
                limit_bytes=protocol.limit_bytes(job),
                timeout_s=self._most_s,
                heard=tell_waiting(self._target, self._say),
            )
            wall_ns = time.monotonic_ns() - start_ns
            if isinstance(reply, Exit):
                raise_failure(self._target, reply)
            if failure := protocol.parse_failure(reply.stdout):
                goes_on = failure.goes_on and reply.took_all
                log = reply.log + child.late_log()
                raise_failure(self._target, Exit(failure.exit_code, reply.stdout, log))
            result = self._result(reply, job, wall_ns)
            goes_on = True
            return result
        finally:
            if not goes_on:
                self._end()

    def _ready(self, job: Job) -> Child:
        if self._serving and not self._serving.child.is_ready():
            self._say(f"{self._target.name}: its runner ended between two jobs; another one is started")
            self._end()
        if self._serving and not self._serving.has_room(job):
            self._end()
        if self._serving is None:
            self._serving = self._stack.enter_context(self._start(job))
        return self._serving.child

    def _end(self) -> None:
        self._serving = None
        self._stack.close()

    def _result(self, reply: Reply, job: Job, wall_ns: int) -> JobResult:
        result = protocol.parse_answer(reply.stdout, job, wall_ns, protocol.printable(reply.log))
        if not reply.took_all:
            raise DeviceError(
                f"{self._target.name}: the runner answered a job that it had not got",
                "build the runner or its image again",
            )
        return result


@contextmanager
def own_name(locks: Path, name: str) -> Iterator[str]:
    """A container's name that no other session has, made of that of single jobs, for the length of a block.

    locks: where the names' locks are. Raises DeviceBusyError when there are too many sessions.
    """
    with ExitStack() as stack:
        for number in range(1, _NAMES + 1):
            own = f"{name}-session{number}"
            try:
                stack.enter_context(hold(locks / f"{own}.lock", 0))
            except DeviceBusyError:
                continue
            yield own
            return
    raise DeviceBusyError(f"{_NAMES} sessions of {name} are open", "wait for one of them to end")
