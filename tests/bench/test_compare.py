"""Turns and ratios, with processes that are pretended."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from dlas.bench.compare import Comparison, compare


def process(name: str, samples_ns: list[int], order: list[str]) -> Callable[[], list[int]]:
    def run() -> list[int]:
        order.append(name)
        return samples_ns

    return run


def test_who_goes_first_changes_with_the_round() -> None:
    order: list[str] = []
    found = compare(process("ours", [1, 2, 9], order), process("peer", [4], order), 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert found.ours_ns == (2, 2, 2)
    assert found.peer_ns == (4, 4, 4)
    assert found.ratio == 0.5


def test_a_drift_of_the_machine_cancels() -> None:
    turn = count()

    def slower_each_time(base_ns: int) -> Callable[[], list[int]]:
        return lambda: [round(base_ns * 1.05 ** next(turn))]

    found = compare(slower_each_time(900_000), slower_each_time(1_000_000), 10)
    assert found.ratio == pytest.approx(0.9, rel=0.002)
    assert found.low <= 0.9 <= found.high


@pytest.mark.parametrize(("ours_ns", "verdict"), [(90, "faster"), (110, "slower"), (100, "undecided")])
def test_verdicts(ours_ns: int, verdict: str) -> None:
    order: list[str] = []
    assert compare(process("ours", [ours_ns], order), process("peer", [100], order), 5).verdict == verdict


def test_few_rounds_decide_nothing() -> None:
    order: list[str] = []
    found = compare(process("ours", [1], order), process("peer", [100], order), 2)
    assert (found.low, found.high) == (0, float("inf"))
    assert found.verdict == "undecided"


def test_a_verdict_needs_the_whole_interval() -> None:
    assert Comparison((), (), 0.9, 0.7, 1.1).verdict == "undecided"
