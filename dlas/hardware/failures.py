"""What a runner, or the engine that starts it, says of a job: why it failed, and what it waits for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NoReturn

from dlas.errors import DeviceBusyError, DeviceError, DeviceLostError, EngineError
from dlas.hardware import engine, protocol
from dlas.hardware.process import Exit
from dlas.values import Target

_BUSY = 75
_ENGINE_FAILED = (125, 126, 127)  # docker run: the engine refused, the program cannot be run, is not there
_SHELL_SIGNAL = 128
_WAITING = "waiting for"

Say = Callable[[str], None]


def silent(line: str) -> None:
    """Nobody listens."""


def raise_failure(target: Target, ended: Exit) -> NoReturn:
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


def tell_waiting(target: Target, say: Say) -> Say:
    """What hears the lines of a job's log, and says the first one that tells of its wait for the lock."""
    said = False

    def heard(line: str) -> None:
        nonlocal said
        if line.startswith(_WAITING) and not said:  # a runner that lies could say it for ever
            say(f"{target.name}: {protocol.one_line(line)}")
            said = True

    return heard
