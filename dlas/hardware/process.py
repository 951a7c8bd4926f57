"""A child process, fed and read with bounds: it can neither hang the host nor fill its memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dlas.errors import DeviceError

_READ_BYTES = 1 << 20
_LOG_BYTES = 64 << 10
_QUIET_S = 0.1  # an engine sends stdout and stderr on each its own way
_LATE_S = 1.0

Hear = Callable[[str], None]


@dataclass(frozen=True)
class Exit:
    """How a child ended. returncode is negative for a signal; log is the end of its stderr."""

    returncode: int
    stdout: bytes
    log: str


@dataclass(frozen=True)
class Reply:
    """What a child said that lives on. took_all: whether it had been sent all by then. log: as in `Exit`."""

    stdout: bytes
    took_all: bool
    log: str


def exchange(
    command: Sequence[str],
    chunks: Iterable[bytes],
    *,
    limit_bytes: int,
    timeout_s: float,
    env: Mapping[str, str],
    cwd: Path | None = None,
    hold: bool = False,
    heard: Hear = lambda line: None,
) -> Exit:
    """Run a command in a process group of its own, write chunks to it and read what it says.

    hold: its stdin stays open until it has closed its own ends. heard gets each line of its log at once.
    Raises DeviceError when it does not start, says more than limit_bytes, or lives longer than
    timeout_s. No process of its group is left behind, whatever happens.
    """
    with _started(command, env, cwd) as process:
        return _Pump(process, iter(chunks), limit_bytes, timeout_s, hold, heard).run()


@contextmanager
def converse(command: Sequence[str], env: Mapping[str, str]) -> Iterator[Child]:
    """A command in a process group of its own, of which no process is left behind after the block.

    Raises DeviceError when it does not start.
    """
    with _started(command, env) as process:
        yield Child(process)


class Child:
    """A process that is asked one thing after another. After an error it is of no more use."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def is_ready(self) -> bool:
        """Whether it lives, and has said nothing that was not asked for."""
        process = self._process
        streams = [stream for stream in (process.stdout, process.stdin, process.stderr) if stream]
        if process.poll() is not None or any(stream.closed for stream in streams):
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(streams[0], selectors.EVENT_READ)
            return not selector.select(0)

    def ask(
        self,
        chunks: Iterable[bytes],
        answer_bytes: Callable[[bytearray], int | None],
        *,
        limit_bytes: int,
        timeout_s: float,
        heard: Hear,
    ) -> Reply | Exit:
        """Write chunks and read until it has said as much as answer_bytes wants, or until it has ended.

        answer_bytes: of what it has said so far; None until that can be told. Raises what it raises, and
        DeviceError for more than limit_bytes, or after timeout_s. The rest is as in `exchange`.
        """
        return _Pump(self._process, iter(chunks), limit_bytes, timeout_s, True, heard).ask(answer_bytes)

    def late_log(self) -> str:
        """What it writes to stderr before it is quiet: that of a job may come behind its answer."""
        return _Pump(self._process, iter(()), 0, _LATE_S, True, lambda line: None).listen()


@contextmanager
def _started(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise DeviceError(f"{command[0]} does not start: {error.strerror}", "build it again") from error
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class _Pump:
    """Moves bytes to and from a child until all its streams are closed, or it has said enough."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        chunks: Iterator[bytes],
        limit_bytes: int,
        timeout_s: float,
        hold: bool,
        heard: Hear,
    ) -> None:
        self._process = process
        self._chunks = chunks
        self._pending = memoryview(b"")
        self._stdout = bytearray()
        self._log = bytearray()
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._hold = hold
        self._heard = heard
        self._line = b""
        self._selector = selectors.DefaultSelector()

    def run(self) -> Exit:
        self._move(lambda said: None)
        return self._exit()

    def ask(self, answer_bytes: Callable[[bytearray], int | None]) -> Reply | Exit:
        if not self._move(answer_bytes):
            return self._exit()
        took_all = not self._pending and next(self._chunks, None) is None
        return Reply(bytes(self._stdout), took_all, self._log_text())

    def listen(self) -> str:
        with self._selector:
            self._watch(self._process.stderr, selectors.EVENT_READ, self._read_log)
            while self._selector.get_map() and time.monotonic() < self._deadline:
                if not (ready := self._selector.select(_QUIET_S)):
                    break
                self._act(ready)
        return self._log_text()

    def _move(self, answer_bytes: Callable[[bytearray], int | None]) -> bool:
        """Whether it has said as much as answer_bytes wants. If not, it has closed its ends."""
        wanted = None
        with self._selector:
            self._watch(self._process.stdin, selectors.EVENT_WRITE, self._write)
            self._watch(self._process.stdout, selectors.EVENT_READ, self._read_stdout)
            self._watch(self._process.stderr, selectors.EVENT_READ, self._read_log)
            while self._selector.get_map():
                self._act(self._selector.select(self._left()))
                if wanted is None:
                    wanted = answer_bytes(self._stdout)
                if wanted is not None and len(self._stdout) >= wanted:
                    # Its log up to here, and what it says too much.
                    self._act(one for one in self._selector.select(0) if one[0].data != self._write)
                    return True
        return False

    @staticmethod
    def _act(ready: Iterable[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            key.data(key.fileobj)

    def _exit(self) -> Exit:
        try:
            returncode = self._process.wait(self._left())
        except subprocess.TimeoutExpired:
            raise self._late() from None
        return Exit(returncode, bytes(self._stdout), self._log_text())

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> DeviceError:
        return self._error(f"no answer within {self._timeout_s:g} s")

    def _error(self, cause: str) -> DeviceError:
        error = DeviceError(cause, "see its log in the row")
        error.add_note(self._log_text())
        return error

    def _log_text(self) -> str:
        return self._log.decode("utf-8", "replace")

    def _watch(self, stream: IO[bytes] | None, event: int, act: object) -> None:
        if stream is None:
            raise ValueError("the child has no pipe")
        if stream.closed:
            return
        os.set_blocking(stream.fileno(), False)
        self._selector.register(stream, event, act)

    def _close(self, stream: IO[bytes]) -> None:
        self._selector.unregister(stream)
        stream.close()

    def _write(self, stream: IO[bytes]) -> None:
        if not self._pending:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._selector.unregister(stream)
                if not self._hold:
                    stream.close()
                return
            self._pending = memoryview(chunk)
        try:
            self._pending = self._pending[os.write(stream.fileno(), self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it will say why, or its exit code does
            self._close(stream)

    def _read_stdout(self, stream: IO[bytes]) -> None:
        data = os.read(stream.fileno(), _READ_BYTES)
        self._stdout += data
        if len(self._stdout) > self._limit_bytes:
            raise self._error(f"the runner's answer is longer than {self._limit_bytes} bytes")
        if not data:
            self._close(stream)

    def _read_log(self, stream: IO[bytes]) -> None:
        data = os.read(stream.fileno(), _READ_BYTES)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._heard(line.decode("utf-8", "replace"))
        self._line = self._line[-_LOG_BYTES:]
        self._log += data
        del self._log[:-_LOG_BYTES]
        if not data:
            self._close(stream)
