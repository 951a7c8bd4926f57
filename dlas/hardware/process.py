"""One child process, fed and read with bounds: it can neither hang the host nor fill its memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dlas.errors import DeviceError

_READ_BYTES = 1 << 20
_LOG_BYTES = 64 << 10


@dataclass(frozen=True)
class Exit:
    """How a child ended. returncode is negative for a signal; log is the end of its stderr."""

    returncode: int
    stdout: bytes
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
    heard: Callable[[str], None] = lambda line: None,
) -> Exit:
    """Run a command in a process group of its own, write chunks to it and read what it says.

    hold: its stdin stays open until it has closed its own ends. heard gets each line of its log at once.
    Raises DeviceError when it does not start, says more than limit_bytes, or lives longer than
    timeout_s. No process of its group is left behind, whatever happens.
    """
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
            return _Pump(process, iter(chunks), limit_bytes, timeout_s, hold, heard).run()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class _Pump:
    """Moves bytes to and from a child until all its streams are closed."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        chunks: Iterator[bytes],
        limit_bytes: int,
        timeout_s: float,
        hold: bool,
        heard: Callable[[str], None],
    ) -> None:
        self._process = process
        self._chunks = chunks
        self._pending = memoryview(b"")
        self._stdout = bytearray()
        self._log = bytearray()
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._hold = hold
        self._heard = heard
        self._line = b""
        self._selector = selectors.DefaultSelector()

    def run(self) -> Exit:
        deadline = time.monotonic() + self._timeout_s
        with self._selector:
            self._watch(self._process.stdin, selectors.EVENT_WRITE, self._write)
            self._watch(self._process.stdout, selectors.EVENT_READ, self._read_stdout)
            self._watch(self._process.stderr, selectors.EVENT_READ, self._read_log)
            while self._selector.get_map():
                for key, _ in self._selector.select(self._left(deadline)):
                    key.data(key.fileobj)
        try:
            returncode = self._process.wait(self._left(deadline))
        except subprocess.TimeoutExpired:
            self._left(time.monotonic())
        return Exit(returncode, bytes(self._stdout), self._log_text())

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._error(f"no answer within {self._timeout_s:g} s")
        return left

    def _error(self, cause: str) -> DeviceError:
        error = DeviceError(cause, "see its log in the row")
        error.add_note(self._log_text())
        return error

    def _log_text(self) -> str:
        return self._log.decode("utf-8", "replace")

    def _watch(self, stream: IO[bytes] | None, event: int, act: object) -> None:
        if stream is None:
            raise ValueError("the child has no pipe")
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
