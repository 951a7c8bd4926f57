"""Devices that go away and come back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dlas.errors import DeviceBusyError, DeviceError, DeviceLostError, DlasError, EngineError
from dlas.measurement.patience import RETRY_PAUSES_S, persist
from dlas.values import DeviceFacts
from tests.measurement.answering import Answering

GONE = DeviceLostError("hikey: no Docker engine answers", "start it")


class Fleeting(Answering):
    """Answers only from the nth question on whether it is there."""

    def __init__(self, away: int) -> None:
        super().__init__(np.zeros(1))
        self.away = away

    def probe(self) -> DeviceFacts:
        self.away -= 1
        if self.away >= 0:
            raise GONE
        return super().probe()


def failing(*errors: DlasError) -> Callable[[], str]:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return ask


def test_a_device_is_asked_again_once_it_is_back() -> None:
    said: list[str] = []
    slept: list[float] = []
    killed = DeviceLostError("hikey: its job was ended by SIGKILL", "try again")
    assert persist(failing(GONE, killed), Fleeting(2).probe, 3, said.append, slept.append) == "done"
    assert slept == [*RETRY_PAUSES_S[:3], RETRY_PAUSES_S[0]]
    assert said == [
        "hikey: no Docker engine answers; waiting for it, 3 more of 3 tries",
        "hikey: its job was ended by SIGKILL; waiting for it, 2 more of 3 tries",
    ]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_it_is_not_asked_for_ever(retries: int) -> None:
    said: list[str] = []
    with pytest.raises(EngineError):
        persist(failing(*[GONE] * 9), Fleeting(0).probe, retries, said.append, lambda seconds: None)
    assert len(said) == retries


def test_a_device_that_stays_away_is_given_up() -> None:
    slept: list[float] = []
    with pytest.raises(EngineError):
        persist(failing(GONE, GONE), Fleeting(99).probe, 1, lambda line: None, slept.append)
    assert slept == list(RETRY_PAUSES_S)


@pytest.mark.parametrize(
    "error", [DeviceBusyError("busy", ""), DeviceError("a crash", ""), EngineError("image absent", "")]
)
def test_what_would_end_the_same_way_is_not_tried_again(error: DlasError) -> None:
    with pytest.raises(type(error)):
        persist(failing(error), Fleeting(0).probe, 5, print, lambda seconds: None)
