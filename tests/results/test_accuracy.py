"""Paired accuracy. The chances of a false word are exact: sums over all numbers of images gained and lost."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial

from dlas.results import accuracy
from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED, Verdict

# Shares of images that only the first artifact gets right, beside a true loss.
GAINED = (0.0, 0.001, 0.005, 0.02)


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * (both + gained) + [False] * (lost + neither)
    b = [True] * both + [False] * gained + [True] * lost + [False] * neither
    order = np.random.default_rng(0).permutation(len(a))
    return np.array(a)[order], np.array(b)[order]


@cache
def judged(gained: int, lost: int, n: int, drop: float) -> Verdict:
    return accuracy.judge(*pairs(n - gained - lost, gained, lost, 0), drop)


def chances(n: int, gained: float, lost: float, drop: float) -> dict[str, float]:
    """Of each word, and of an interval that holds the true difference, when these shares are true."""
    reach = int(n * lost + 6 * (n * lost) ** 0.5 + 8)
    found = dict.fromkeys((HOLDS, FAILS, UNDECIDED, "covered"), 0.0)
    for i in range(reach):
        for j in range(reach):
            chance = multinomial.pmf([i, j, n - i - j], n, [gained, lost, 1 - gained - lost])
            if chance > 1e-6:
                verdict = judged(i, j, n, drop)
                found[verdict.word] += chance
                found["covered"] += chance * (
                    verdict.difference.low <= gained - lost <= verdict.difference.high
                )
    return found


@pytest.mark.parametrize(("n", "drop"), [(100, 0.02), (360, 0.01), (360, 0.02), (1000, 0.005), (1000, 0.01)])
@pytest.mark.parametrize("gained", GAINED)
def test_a_loss_of_the_drop_is_seldom_said_to_hold(n: int, drop: float, gained: float) -> None:
    found = chances(n, gained, gained + drop, drop)
    assert found[HOLDS] <= 0.028  # 0.99**360 is 2.7%; the others are below 2.6%
    assert found[FAILS] <= 0.04
    assert found["covered"] >= 0.94


@pytest.mark.parametrize(
    ("n", "gained", "lost", "word", "least"),
    [
        (1000, 0.001, 0.001, HOLDS, 0.99),
        (1000, 0.005, 0.005, HOLDS, 0.78),
        (360, 0.001, 0.001, HOLDS, 0.6),
        (360, 0.005, 0.045, FAILS, 0.8),
        (1000, 0.005, 0.03, FAILS, 0.75),
    ],
)
def test_what_is_there_is_found(n: int, gained: float, lost: float, word: str, least: float) -> None:
    assert chances(n, gained, lost, 0.01)[word] >= least


def test_equal_predictions_hold_a_point_on_360_images() -> None:
    same = np.random.default_rng(0).random(360) < 0.97
    found = accuracy.judge(same, same, 0.01)
    assert (found.word, found.difference.fraction) == (HOLDS, 0.0)
    assert -0.01 < found.difference.low < -0.0096
    assert found.difference.high == -found.difference.low
    assert accuracy.judge(same[:340], same[:340], 0.01).word == UNDECIDED


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        # Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33, 2850-2875), the first example
        ((1, 1, 7, 12), (-0.517, -0.026)),
    ],
)
def test_the_interval_is_tangos(counts: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    found = accuracy.difference(*pairs(*counts))
    assert (found.low, found.high) == pytest.approx(interval, abs=1e-3)


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(1, 7, 21), (0, 3, 360), (5, 0, 100), (12, 2, 50), (4, 4, 1000)]
)
def test_the_ends_are_where_the_score_test_turns(gained: int, lost: int, n: int) -> None:
    found = accuracy.difference(*pairs(n - gained - lost, gained, lost, 0))
    for end in (found.low, found.high):

        def unlikely(q: float, end: float = end) -> float:
            shares = np.array([q + end, q, 1 - 2 * q - end])
            return -float(np.array([gained, lost, n - gained - lost]) @ np.log(np.maximum(shares, 1e-300)))

        bounds = max(0.0, -end), (1 - end) / 2
        share = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        z = (gained - lost - n * end) / np.sqrt(n * (2 * share + end - end**2))
        assert abs(z) == pytest.approx(1.95996, rel=2e-3)


def test_sides_that_are_exchanged_turn_the_difference_round() -> None:
    a, b = pairs(80, 9, 3, 8)
    one, other = accuracy.difference(a, b), accuracy.difference(b, a)
    assert (one.fraction, one.low, one.high) == pytest.approx((-other.fraction, -other.high, -other.low))
    assert (one.gained, one.lost, one.images) == (9, 3, 100)
    assert one.low < one.fraction == 0.06 < one.high


def test_counts_alone_are_unpaired_and_tell_less() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 873-890), table II, contrast (a), method 10
    found = accuracy.difference_of_counts(56, 70, 48, 80)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert not found.is_paired
    a, b = pairs(890, 5, 5, 100)
    assert accuracy.judge(a, b, 0.02).word == HOLDS
    unpaired = accuracy.judge_counts(895, 1000, 895, 1000, 0.02)
    assert unpaired.word == UNDECIDED
    assert "only the numbers" in unpaired.reason
    assert accuracy.images_to_decide(unpaired.difference, 0.02) is None
    assert accuracy.judge_counts(800, 1000, 900, 1000, 0.02).word == FAILS


def test_as_many_images_as_are_said_decide() -> None:
    verdict = accuracy.judge(*pairs(340, 3, 3, 14), 0.01)
    needed = accuracy.images_to_decide(verdict.difference, 0.01)
    assert verdict.reason == "undecided on 360 images; about 1,600 would tell"
    assert needed is not None
    rng = np.random.default_rng(0)
    rounds = rng.multinomial(needed, [3.5 / 361, 3.5 / 361, 354 / 361], size=400)
    share = np.mean([accuracy.judge(*pairs(n, i, j, 0), 0.01).word == HOLDS for i, j, n in rounds.tolist()])
    assert 0.72 <= share <= 0.88  # 80%, and four standard errors of 400 rounds


def test_no_number_of_images_decides_what_lies_on_the_bound() -> None:
    verdict = accuracy.judge(*pairs(95, 0, 5, 0), 5 / 101)
    assert accuracy.images_to_decide(verdict.difference, 5 / 101) is None
    assert verdict.reason == "undecided on 100 images"


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (4,)), ((2, 2), (2, 2))])
def test_what_is_no_pairs_is_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="pairs of images are needed"):
        accuracy.difference(*(np.zeros(shape, dtype=bool) for shape in shapes))


def test_what_is_no_drop_or_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a drop of 1\.5"):
        accuracy.judge(*pairs(5, 0, 0, 5), 1.5)
    for hits, n in ((5, 4), (0, 0), (-1, 4)):
        with pytest.raises(ValueError, match="is no number of"):
            accuracy.difference_of_counts(hits, n, 1, 2)
