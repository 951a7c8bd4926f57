"""The noise floor keeps verdicts honest where the machine wanders, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlas.results import noise, verdict
from dlas.results.noise import MIN_PROCESSES
from dlas.results.statistics import MIN_DRAWN
from dlas.results.verdict import UNDECIDED
from tests.results.worlds import World

WALKS = World(walk=0.02, follows=0.5)


def decided(world: World, count: int, rounds: int, scale: float = 1.0) -> tuple[float, float]:
    """The share of verdicts that are not undecided, without the floor of count processes and with it.

    Of two cells of `MIN_DRAWN` processes each, anywhere in a stretch that is as long as the noise run.
    """
    rng = np.random.default_rng(count)
    found = np.zeros((rounds, 2))
    for each in found:
        floor = noise.floor(world.processes(rng, count)).floor_fraction
        machine = world.processes(rng, count)
        first = rng.integers(0, count - MIN_PROCESSES + 1)
        second = rng.integers(first + MIN_DRAWN, count - MIN_DRAWN + 1)
        a = [samples * scale for samples in machine[first : first + MIN_DRAWN]]
        b = machine[second : second + MIN_DRAWN]
        each[:] = [verdict.judge(a, b, fraction).word != UNDECIDED for fraction in (0.0, floor)]
    without, within = found.mean(axis=0).tolist()
    return without, within


@pytest.mark.parametrize("count", [10, 20])
def test_a_machine_that_wanders_gives_few_false_verdicts(count: int) -> None:
    # 3.4% and 3.3% in 1500 rounds: 200 of them exceed 12, 6%, in 2 of a hundred tries
    without, within = decided(WALKS, count, rounds=200)
    assert without > 0.12
    assert within <= 0.06


def test_the_price_is_power_for_small_differences() -> None:
    without, within = decided(World(), MIN_PROCESSES, 80, scale=1.03)
    assert without > 0.6
    assert 0.15 < within < 0.55
    assert decided(World(), MIN_PROCESSES, 40, scale=1.05)[1] > 0.75
    assert decided(World(), MIN_PROCESSES, 20, scale=1.1)[1] == 1.0


def test_a_quiet_machine_has_a_floor_of_the_differences_between_its_processes() -> None:
    rng = np.random.default_rng(0)
    floors = [noise.floor(World(differ=0.01).processes(rng, 20)).splits_fraction for _ in range(40)]
    # the median of 5 normal values has a standard deviation of 0.536 of theirs
    assert np.median(floors) == pytest.approx(1.96 * 0.536 * 2**0.5 * 0.01, rel=0.15)


def test_a_phase_is_in_the_floor() -> None:
    rng = np.random.default_rng(0)
    quiet = World(differ=0.001)
    late = [samples * 1.08 for samples in quiet.processes(rng, 10)]
    found = noise.floor([*quiet.processes(rng, 10), *late])
    assert found.phases_fraction == pytest.approx(0.08, abs=0.01)
    assert found.floor_fraction >= found.phases_fraction
    assert found.halves_low < 1.08 < found.halves_high
    assert found.halves_low > 1.07
    assert found.alternating.word == UNDECIDED
    assert found.processes == 20


def test_a_slow_other_side_shows_in_alternating_processes() -> None:
    rng = np.random.default_rng(0)
    pairs = zip(World().processes(rng, 8), World().processes(rng, 8, 1.1), strict=True)
    found = noise.floor([samples for pair in pairs for samples in pair])
    assert found.alternating.word == verdict.FASTER


def test_all_alike_has_no_floor_and_time_has_no_unit() -> None:
    assert noise.floor([[5.0] * 20] * 10).floor_fraction == 0.0
    processes = replace(WALKS, walk=0.01).processes(np.random.default_rng(0), 12)
    one, thousand = (noise.floor([samples * unit for samples in processes]) for unit in (1, 1000))
    assert one.floor_fraction == pytest.approx(thousand.floor_fraction)


def test_few_processes_have_no_floor() -> None:
    with pytest.raises(ValueError, match="noise needs 10 processes, not 9"):
        noise.floor([[1.0, 2.0]] * 9)
