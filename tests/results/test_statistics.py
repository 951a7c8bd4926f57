from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import ks_2samp

from dlas.results.statistics import (
    MIN_DRAWN,
    draw_medians,
    median_interval,
    proportion_interval,
    quantiles,
    ratio_interval,
    summarize,
)

TRIALS = 400


def test_summary_of_one_process() -> None:
    samples = list(range(1, 152))
    summary = summarize([samples])
    assert (summary.median_ns, summary.iqr_ns) == (76.0, 75.0)
    assert (summary.samples, summary.processes, summary.covers_processes) == (151, 1, False)
    assert 60 < summary.low_ns < 76 < summary.high_ns < 92


def test_each_process_has_one_vote() -> None:
    summary = summarize([[10] * 1000, [20] * 5, [90] * 7])
    assert summary.median_ns == 20.0
    assert (summary.samples, summary.processes) == (1012, 3)
    assert summarize([[1, 2], [3, 4]]).median_ns == 2.5


def test_same_seed_gives_the_same_interval_and_order_does_not_count() -> None:
    samples = np.random.default_rng(3).lognormal(0, 0.3, 150).tolist()
    assert median_interval([samples], seed=1) == median_interval([samples[::-1]], seed=1)
    assert median_interval([samples], seed=1) != median_interval([samples], seed=2)


@pytest.mark.parametrize("size", [5, 6, 150, 151])
def test_interval_is_that_of_a_plain_bootstrap(size: int) -> None:
    rng = np.random.default_rng(size)
    samples = rng.lognormal(0, 0.3, size)
    medians = np.median(samples[rng.integers(size, size=(20_000, size))], axis=1)
    for fast, plain in zip(
        median_interval([samples.tolist()]), np.quantile(medians, (0.025, 0.975)), strict=True
    ):
        below = np.mean(medians < fast), np.mean(medians <= fast)
        assert below[0] - 0.02 <= np.mean(medians <= plain)
        assert below[1] + 0.02 >= np.mean(medians < plain)


@pytest.mark.parametrize("sizes", [(5, 6, 7, 40, 41), (30, 30, 30, 30)])
def test_draws_are_those_of_a_plain_hierarchical_bootstrap(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    processes = [rng.lognormal(0.1 * i, 0.3, size) for i, size in enumerate(sizes)]
    plain = []
    for _ in range(1500):
        chosen = [processes[i] for i in rng.integers(len(sizes), size=len(sizes))]
        plain.append(np.median([np.median(rng.choice(samples, samples.size)) for samples in chosen]))
    assert ks_2samp(draw_medians(processes, 0), plain).pvalue > 0.01


def test_two_seeds_are_two_independent_draws() -> None:
    rng = np.random.default_rng(0)
    processes = [rng.lognormal(0, 0.3, 20) for _ in range(6)]
    one, same, other, side = (draw_medians(processes, seed) for seed in (0, 0, 1, (0, 1)))
    assert (one == same).all()
    for independent in (other, side):
        assert abs(np.corrcoef(one, independent)[0, 1]) < 0.1  # 4 standard errors of 2000 draws


@pytest.mark.parametrize("size", [1, 2, 3, 150])
def test_quantiles_are_numpys(size: int) -> None:
    values, shares = np.random.default_rng(size).standard_normal(size), (0.0, 0.025, 0.5, 0.975, 1.0)
    assert quantiles(values, shares) == pytest.approx(np.quantile(values, shares))


@pytest.mark.parametrize("size", [10, 150])
def test_interval_covers_the_median_of_one_process(size: int) -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval([rng.lognormal(0, 0.3, size).tolist()], seed=i) for i in range(TRIALS)]
    assert 0.90 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.98


def process_medians_covered(processes: int) -> float:
    """How often the interval holds the true median, when processes differ by as much as samples do."""
    rng = np.random.default_rng(processes)
    hits = 0
    for trial in range(TRIALS):
        centers = rng.lognormal(0, 0.05, processes)
        low, high = median_interval([c * rng.lognormal(0, 0.05, 150) for c in centers], seed=trial)
        hits += low <= 1 <= high
    return hits / TRIALS


@pytest.mark.parametrize("processes", [MIN_DRAWN, 10])
def test_interval_over_processes_covers_the_median_of_all(processes: int) -> None:
    assert 0.90 <= process_medians_covered(processes) <= 0.98


def test_one_process_does_not_speak_for_all() -> None:
    assert process_medians_covered(1) < 0.5


def test_processes_of_unequal_length_are_resampled_each_by_its_own() -> None:
    low, high = median_interval([[10] * 3, [11] * 150, [12] * 9, [13] * 40, [14] * 8])
    assert (low, high) == (10.0, 14.0)


@pytest.mark.parametrize("pairs", [MIN_DRAWN, 10])
def test_ratio_interval_covers_the_ratio(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    hits = 0
    for trial in range(TRIALS):
        shared = rng.lognormal(0, 0.5, pairs)  # what slows both of a pair
        a, b = 1.1 * shared * rng.lognormal(0, 0.03, pairs), shared * rng.lognormal(0, 0.03, pairs)
        ratio, low, high = ratio_interval(a.tolist(), b.tolist(), seed=trial)
        assert low <= ratio <= high
        assert high - low < 0.3
        hits += low <= 1.1 <= high
    assert 0.90 <= hits / TRIALS <= 0.98


def test_too_few_give_no_interval() -> None:
    assert median_interval([[1, 2, 3, 4]]) == (0.0, float("inf"))
    assert ratio_interval([2.0, 4.0], [1.0, 1.0]) == (3.0, 0.0, float("inf"))


def test_ratio_is_taken_pair_by_pair() -> None:
    assert ratio_interval([1, 20, 300, 4, 50], [2, 40, 600, 8, 100]) == (0.5, 0.5, 0.5)
    assert ratio_interval([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == (1.0, 0.2, 5.0)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([-1.0], [1.0])])
def test_ratio_of_what_is_no_pairs_of_times_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs of positive numbers"):
        ratio_interval(a, b)


@pytest.mark.parametrize("processes", [[], [[]], [[1, 2], []]])
def test_no_samples_are_refused(processes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        summarize(processes)


@pytest.mark.parametrize("module", ["dlas.results.statistics", "dlas.cache"])
def test_import_is_light(module: str) -> None:
    heavy = "{'pyarrow', 'scipy', 'torch', 'tvm', 'docker', 'rich'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("hits", "n", "interval"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_the_interval_of_a_share_is_wilsons(hits: int, n: int, interval: tuple[float, float]) -> None:
    assert proportion_interval(hits / n, n) == pytest.approx(interval, abs=1e-4)


def test_a_share_that_cannot_be_is_refused() -> None:
    for fraction, n in ((0.5, 0), (0.123, 10)):
        with pytest.raises(ValueError, match="is not a share of"):
            proportion_interval(fraction, n)
