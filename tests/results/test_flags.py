"""How often flags are raised where nothing is odd, and how often they find what is, on simulated rows.

A rate of 1000 rows has a standard error of at most 0.7% where it is 5% and 1.6% where it is 50%: each bound
here is at least two of them from what `docs/statistics.md` gives for more rows.
"""

from __future__ import annotations

import numpy as np
import pytest

from dlas.results.flags import ConfigurationFlags, Flags, of_configurations
from dlas.results.statistics import MIN_DRAWN
from tests.results.worlds import SAMPLES, World

ROWS = 1000


def flags(world: World, drift: float = 0.0, rows: int = ROWS) -> list[Flags]:
    """drift: by which the last third of each row exceeds the first."""
    trend = np.linspace(0, 1.5 * np.log1p(drift), SAMPLES)
    processes = [row * np.exp(trend) for row in world.processes(np.random.default_rng(0), rows)]
    return list(of_configurations([processes])[0].processes)


def drifting(found: list[Flags]) -> float:
    return float(np.mean([each.is_drifting for each in found]))


def bimodal(found: list[Flags]) -> float:
    return float(np.mean([each.is_bimodal for each in found]))


@pytest.mark.parametrize(
    ("world", "drift", "modes"),
    [
        (World(), 0.01, 0.01),
        (World(noise=0.3), 0.08, 0.01),
        (World(follows=0.5), 0.02, 0.01),
        (World(follows=0.9), 0.07, 0.02),
        (World(outliers=0.05), 0.01, 0.01),
        (World(follows=0.9, outliers=0.05), 0.08, 0.02),
        (World(tick=0.01), 0.02, 0.01),
        (World(tick=0.04), 0.02, 0.01),
        (World(tick=0.1), 0.02, 0.01),
        (World(follows=0.9, tick=0.03), 0.07, 0.02),
    ],
)
def test_noise_is_seldom_flagged(world: World, drift: float, modes: float) -> None:
    found = flags(world)
    assert drifting(found) <= drift
    assert bimodal(found) <= modes


@pytest.mark.parametrize(
    ("world", "drift", "least"),
    [
        (World(), 0.03, 0.95),
        (World(outliers=0.05), 0.03, 0.93),
        (World(follows=0.5), 0.05, 0.95),
        (World(follows=0.9), 0.10, 0.5),
    ],
)
def test_drift_is_found(world: World, drift: float, least: float) -> None:
    for sign in (drift, 1 / (1 + drift) - 1):
        found = flags(world, sign)
        assert drifting(found) >= least
        assert np.mean([each.drift_fraction for each in found]) == pytest.approx(sign, abs=0.006)


def test_less_drift_than_is_worth_telling_is_not_flagged() -> None:
    assert drifting(flags(World(noise=0.002), drift=0.015)) == 0.0
    assert drifting(flags(World(noise=0.002), drift=0.025)) == 1.0


@pytest.mark.parametrize(
    ("world", "least"),
    [
        (World(switches=0.3), 0.98),
        (World(switches=0.3, apart=0.1), 0.97),
        (World(switches=0.3, outliers=0.05), 0.98),
        (World(switches=0.3, follows=0.9), 0.95),
        (World(switches=0.3, tick=0.04), 0.98),
        (World(switches=0.02, follows=0.3), 0.55),
    ],
)
def test_two_modes_are_found(world: World, least: float) -> None:
    assert bimodal(flags(world)) >= least


def test_modes_too_close_to_be_worth_telling_are_not_flagged() -> None:
    assert bimodal(flags(World(noise=0.001, switches=0.3, apart=0.015))) == 0.0
    near = flags(World(noise=0.001, switches=0.3, apart=0.03))
    assert bimodal(near) > 0.98
    assert np.median([each.modes_fraction for each in near]) == pytest.approx(0.03, abs=0.002)


def test_outliers_are_counted() -> None:
    share = np.mean([each.outlier_fraction for each in flags(World(outliers=0.05))])
    assert share == pytest.approx(0.055, abs=0.005)  # about 1% of plain noise lies beyond the fences
    samples = [*range(100, 200), 1000, 1]
    assert of_configurations([[samples]])[0].processes[0].outlier_fraction == 2 / 102


def configuration(world: World, count: int, rounds: int = 300) -> list[ConfigurationFlags]:
    rng = np.random.default_rng(0)
    return of_configurations([world.processes(rng, count) for _ in range(rounds)])


@pytest.mark.parametrize("count", [5, 10])
def test_modes_of_processes(count: int) -> None:
    for world in (World(differ=0.0), World(differ=0.03), World(follows=0.9)):
        assert np.mean([each.is_bimodal for each in configuration(world, count)]) <= 0.05
    modal = configuration(World(switches=1e-9), count)
    assert np.mean([each.is_bimodal for each in modal]) >= {5: 0.38, 10: 0.74}[count]
    assert np.mean([row.is_bimodal for each in modal for row in each.processes]) <= 0.01


def test_a_configuration_keeps_its_own_rows_in_order() -> None:
    rng = np.random.default_rng(0)
    quiet = World().processes(rng, 3)
    short = [row[:20] for row in World().processes(rng, 2)]
    drifting = [row * np.linspace(1, 1.3, SAMPLES) for row in World().processes(rng, 2)]
    found = of_configurations([[quiet[0], drifting[0]], [short[0]], [drifting[1], quiet[1], short[1]]])
    drifts = [[row.is_drifting for row in each.processes] for each in found]
    assert drifts == [[False, True], [False], [True, False, False]]
    assert found[0].processes[1].drift_fraction == pytest.approx(0.18, abs=0.02)


@pytest.mark.parametrize("row", [[7], [7, 7], [5] * 200, [0] * 200])
def test_rows_without_anything_to_see(row: list[int]) -> None:
    found = of_configurations([[row] * MIN_DRAWN])[0]
    assert found == ConfigurationFlags((Flags(0.0, False, 0.0, False, 0.0),) * MIN_DRAWN, 0.0, False)


def test_no_samples_are_refused() -> None:
    assert of_configurations([]) == []
    with pytest.raises(ValueError, match="at least one sample"):
        of_configurations([[[1.0], []]])
