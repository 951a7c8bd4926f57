"""How often verdicts are false where there is nothing to find, and how often they find what is there."""

from __future__ import annotations

import numpy as np
import pytest

from dlas.results import verdict
from dlas.results.verdict import FASTER, SLOWER, UNDECIDED
from tests.results.worlds import World

WORLDS = {
    "plain": World(differ=0.0),
    "processes differ": World(differ=0.02),
    "samples follow": World(follows=0.9),
    "drift": World(follows=0.5, drift=0.05),
    "two modes": World(follows=0.3, switches=0.02),
    "many switches": World(follows=0.3, switches=0.3),
    "a mode for each process": World(follows=0.3, switches=1e-9),
}


def words(world: World, count: int, rounds: int, scale: float = 1.0) -> list[str]:
    rng = np.random.default_rng(0)
    pairs = [(world.processes(rng, count, scale), world.processes(rng, count)) for _ in range(rounds)]
    return [verdict.judge(a, b).word for a, b in pairs]


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize("name", WORLDS)
def test_at_most_one_in_twenty_verdicts_is_false(name: str, count: int) -> None:
    found = words(WORLDS[name], count, rounds=200)
    assert sum(word != UNDECIDED for word in found) <= 0.05 * len(found)


@pytest.mark.parametrize(
    ("name", "shift", "least"),
    [
        ("plain", 1.03, 1.0),
        ("processes differ", 1.10, 0.95),
        ("samples follow", 1.05, 0.9),
        ("drift", 1.10, 0.9),
    ],
)
def test_what_is_there_is_found(name: str, shift: float, least: float) -> None:
    slower, faster = (words(WORLDS[name], 10, 60, scale) for scale in (shift, 1 / shift))
    assert slower.count(SLOWER) >= least * 60
    assert faster.count(FASTER) >= least * 60
    assert FASTER not in slower
    assert SLOWER not in faster


def test_the_noise_of_the_device_is_no_effect() -> None:
    rng = np.random.default_rng(0)
    a, b = World(differ=0.0).processes(rng, 10, 1.02), World(differ=0.0).processes(rng, 10)
    assert verdict.judge(a, b).word == SLOWER
    found = verdict.judge(a, b, noise_fraction=0.05)
    assert (found.word, found.reason) == (UNDECIDED, "within the device's noise of 5.0%")


def test_few_processes_decide_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = World().processes(rng, 4, 2.0), World().processes(rng, 10)
    found = verdict.judge(a, b)
    assert (found.word, found.reason) == (UNDECIDED, "4 of 5 processes")
    assert found.low < 2.0 < found.high
    assert verdict.judge(a[:1], b).high == float("inf")


def test_a_ratio_turned_round_is_its_inverse() -> None:
    rng = np.random.default_rng(0)
    a, b = World().processes(rng, 6, 1.3), World().processes(rng, 6)
    one, other = verdict.judge(a, b), verdict.judge(b, a)
    assert (one.word, other.word) == (SLOWER, FASTER)
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.low == pytest.approx(1 / other.high, rel=0.02)
