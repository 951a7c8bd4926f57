"""How often verdicts are false where there is nothing to find, and how often they find what is there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import t

from dlas.results import statistics, verdict
from dlas.results.verdict import FASTER, SLOWER, UNDECIDED
from tests.results.worlds import SAMPLES, World

WORLDS = {
    "plain": World(differ=0.0),
    "processes differ": World(differ=0.02),
    "samples follow": World(follows=0.9),
    "drift": World(follows=0.5, drift=0.05),
    "two modes": World(follows=0.3, switches=0.02),
    "many switches": World(follows=0.3, switches=0.3),
    "a mode for each process": World(follows=0.3, switches=1e-9),
    "outliers": World(outliers=0.05),
    "a coarse timer": World(tick=0.04),
    "followers, outliers, processes": World(follows=0.9, outliers=0.05, differ=0.02),
    "modes, drift, outliers": World(follows=0.5, switches=0.02, drift=0.05, outliers=0.05),
    "modes of processes, drift": World(switches=1e-9, drift=0.05, differ=0.02),
}
# The most are 3.9% false verdicts in 3000 rounds (docs/statistics.md). More than 9 of 120 come from 3.9% in 2
# of 100 tries and from 5% in 8; no more than 9 from 12% in 8 of 100, and from 20% never.
ROUNDS, MOST = 120, 9


def words(
    world: World,
    counts: tuple[int, int],
    rounds: int,
    scale: float = 1.0,
    samples: tuple[int, int] = (SAMPLES, SAMPLES),
) -> list[str]:
    rng = np.random.default_rng(counts)
    pairs = [
        (world.processes(rng, counts[0], scale, samples[0]), world.processes(rng, counts[1], 1.0, samples[1]))
        for _ in range(rounds)
    ]
    return [verdict.judge(a, b).word for a, b in pairs]


@cache
def false_verdicts(name: str, count: int) -> int:
    return sum(word != UNDECIDED for word in words(WORLDS[name], (count, count), ROUNDS))


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize("name", WORLDS)
def test_no_world_gives_many_false_verdicts(name: str, count: int) -> None:
    assert false_verdicts(name, count) <= MOST


def test_at_most_one_in_twenty_verdicts_is_false() -> None:
    # 2880 rounds, whose share has a standard error of 0.4% at 5%
    found = [false_verdicts(name, count) for name in WORLDS for count in (5, 10)]
    assert sum(found) / (len(found) * ROUNDS) <= 0.03


@pytest.mark.parametrize("samples", [(SAMPLES, SAMPLES), (SAMPLES, 30)])
@pytest.mark.parametrize("name", ["samples follow", "a mode for each process", "modes, drift, outliers"])
def test_nor_where_the_sides_are_unequal(name: str, samples: tuple[int, int]) -> None:
    found = words(WORLDS[name], (5, 12), ROUNDS, samples=samples)
    assert sum(word != UNDECIDED for word in found) <= MOST


def test_nor_where_one_side_is_skewed_and_the_other_steady() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(ROUNDS):
        a, b = World(differ=0.0).processes(rng, 10), World(differ=0.0).processes(rng, 10)
        skewed = [samples * np.exp(0.1 * (rng.exponential() - np.log(2))) for samples in a]
        found.append(verdict.judge(skewed, b).word)
    assert sum(word != UNDECIDED for word in found) <= MOST


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
    slower, faster = (words(WORLDS[name], (10, 10), 40, scale) for scale in (shift, 1 / shift))
    assert slower.count(SLOWER) >= least * 40
    assert faster.count(FASTER) >= least * 40
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


def test_the_interval_is_the_wider_of_percentiles_and_student() -> None:
    rng = np.random.default_rng(0)
    wider = set()
    for world in (World(differ=0.02), World(follows=0.3, switches=0.3)) * 5:
        sides = world.processes(rng, 5), world.processes(rng, 8)
        draws = [np.log(statistics.draw_medians(side, (0, i))) for i, side in enumerate(sides)]
        variances = [draw.var() * n / (n - 1) for draw, n in zip(draws, (5, 8), strict=True)]
        freedom = sum(variances) ** 2 / sum(v**2 / (n - 1) for v, n in zip(variances, (5, 8), strict=True))
        half = t.ppf(0.975, freedom) * sum(variances) ** 0.5
        low, ratio, high = verdict.ratio_of_medians(*sides)
        percentiles = np.exp(np.quantile(draws[0] - draws[1], (0.025, 0.975)))
        student = ratio * np.exp([-half, half])
        assert low == pytest.approx(min(percentiles[0], student[0]))
        assert high == pytest.approx(max(percentiles[1], student[1]))
        wider |= {"percentiles" if percentiles[0] < student[0] else "student"}
    assert wider == {"percentiles", "student"}
