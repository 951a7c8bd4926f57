"""A process for the heavy work: a compiler that crashes or hangs costs one cell and not the sweep."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from dlas.errors import BuildError, DlasError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_parent: Connection | None = None  # of this process, when it is a worker

P = ParamSpec("P")
T = TypeVar("T")


class Limit(NamedTuple):
    """How long a call may take, in seconds; what it does, and the option that gives it more time."""

    seconds: float
    what: str
    option: str


class Worker:
    """Calls functions in one long-lived process, started at the first call and again after a crash.

    hear takes what these functions `tell`. Use it as a context manager: the process is gone when the
    block is left.
    """

    def __init__(self, hear: Callable[[str], None] = lambda _: None) -> None:
        self._hear = hear
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def call(self, log: Path, limit: Limit, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; what it and all below it print goes to the end of `log`.

        Raises the function's DlasError, or BuildError when it raises anything else, crashes, takes too long.
        """
        connection = self._start()
        try:
            connection.send((str(log), function, args, kwargs))
            succeeded, value = self._answer(connection, limit)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            cause = f"the process for {limit.what} {self._last_words()}"
            raise BuildError(cause, "see the cell's log") from None
        if succeeded:
            return value  # type: ignore[no-any-return]
        raise value

    def _answer(self, connection: Connection, limit: Limit) -> tuple[bool, Any]:
        """Whether the call succeeded, and its value or error; what is told before goes to `hear`."""
        deadline = time.monotonic() + limit.seconds
        while connection.poll(max(0.0, deadline - time.monotonic())):
            answer = connection.recv()
            if isinstance(answer, tuple):
                return answer
            self._hear(answer)
        self.stop()
        cause = f"{limit.what} took more than {limit.seconds:.0f} s"
        raise BuildError(cause, f"give it more time with {limit.option}")

    def stop(self) -> None:
        """End the process and what it started, whatever they are doing."""
        if self._process is not None:
            with suppress(
                ProcessLookupError, PermissionError
            ):  # before it has a group of its own, or after its end
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        if self._process is not None and not self._process.is_alive():
            self.stop()  # it died between two calls, which is no fault of the next one
        if self._process is None or self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        return self._connection

    def _last_words(self) -> str:
        self._process.join()
        code = self._process.exitcode
        self.stop()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def tell(text: str) -> None:
    """Let the parent of a worker know how far a function is; elsewhere nobody listens."""
    if _parent is not None:
        _parent.send(text)


def _serve(connection: Connection) -> None:
    from tqdm import tqdm

    # Torch shows progress with it. Its own lock would be a semaphore, which a kill leaves, with a warning.
    tqdm.set_lock(threading.RLock())
    global _parent
    _parent = connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.setsid()  # so that the parent can end the linker with it
    # A parent that is killed cannot stop this process, which would disturb what the next sweep times.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone, and so is the work
        while True:
            log, function, args, kwargs = connection.recv()
            _redirect_output(log)
            connection.send(_attempt(function, args, kwargs))


def _attempt(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[bool, Any]:
    try:
        return True, function(*args, **kwargs)
    except DlasError as error:
        traceback.print_exc()
        return False, error
    except Exception as error:
        traceback.print_exc()
        words = str(error).strip().splitlines()
        return False, BuildError(f"{type(error).__name__}: {words[0] if words else ''}", "see the cell's log")


def _redirect_output(log: str) -> None:
    """Append this process's stdout and stderr to a file, also what C++ prints."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
