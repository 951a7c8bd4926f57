"""Devices that go away: asked again, when the user wants that, once they are back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from dlas.errors import DeviceError, DeviceLostError, EngineError

RETRY_PAUSES_S = (5, 10, 20, 40, 60, 60, 60, 60, 60, 60)  # between asking a device whether it is back

T = TypeVar("T")


def persist(
    ask: Callable[[], T],
    look: Callable[[], object],
    retries: int,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What a device answers, asked again when it went away, once it is there again; so often at most.

    look: raises DeviceError or EngineError while it is away. What else fails is not tried again: it would end
    the same way. Raises what `ask` raises.
    """
    for left in range(retries, 0, -1):
        try:
            return ask()
        except DeviceLostError as error:
            say(f"{error.cause}; waiting for it, {left} more of {retries} tries")
            _await(look, sleep)
    return ask()


def _await(look: Callable[[], object], sleep: Callable[[float], None]) -> None:
    """Return when a device answers, or after the last of RETRY_PAUSES_S."""
    for pause_s in RETRY_PAUSES_S:
        sleep(pause_s)
        try:
            look()
            return
        except (DeviceError, EngineError):
            continue  # the next try says it, if it is still away
