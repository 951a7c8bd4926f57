"""The rule of the elbow, on levels of which only the right answers matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas.compression.elbow import find_elbow
from dlas.errors import TrainingError
from dlas.values import LevelPoint, Weights

N = 200


def points(right: Sequence[int], n: int = N, test: Sequence[int] = ()) -> list[LevelPoint]:
    """Levels 0, 10%, ... that are right on so many of n validation images, and of n test images."""
    return [
        LevelPoint(i / 10, i / 10, k / n, n, t / n, n, Weights("trained"))
        for i, (k, t) in enumerate(zip(right, test or right, strict=True))
    ]


def elbow(right: Sequence[int], drop: float = 0.01, **others: Sequence[int]) -> float:
    return find_elbow(points(right, **others), drop).level_fraction


@pytest.mark.parametrize(
    ("right", "level"),
    [
        ([190, 190, 190], 0.2),
        ([190, 188, 187], 0.1),  # 1% of 200 are 2: as many may go, one more may not
        ([190, 195, 188, 150], 0.2),  # what counts is the dense network, not the best level
        ([190, 187, 190, 190], 0.0),  # a level behind a drop does not count, however good
        ([190, 189, 100, 191], 0.1),
        ([190], 0.0),
    ],
)
def test_the_largest_level_that_holds_with_all_below(right: list[int], level: float) -> None:
    assert elbow(right) == level


def test_the_slow_slide_is_measured_from_the_dense_network() -> None:
    assert elbow([190, 189, 188, 187, 186]) == 0.2


def test_a_large_drop_before_a_sharper_bend_is_no_elbow() -> None:
    """The bend is at 0.3, 11 points down: what a detector of knees would choose."""
    assert elbow([198, 197, 190, 176, 60, 20]) == 0.1


def test_the_test_split_decides_nothing() -> None:
    right = [190, 189, 188, 100]
    assert elbow(right, test=[190, 0, 0, 190]) == elbow(right, test=[0, 190, 190, 190]) == 0.2


@pytest.mark.parametrize(("lost", "level"), [(28, 0.1), (29, 0.1), (30, 0.0)])
def test_the_threshold_is_a_whole_number_of_images(lost: int, level: float) -> None:
    """In floats 0.29 * 100 is below 29, and 0.9 - 0.61 above 0.29."""
    assert find_elbow(points([90, 90 - lost], n=100), 0.29).level_fraction == level


@pytest.mark.parametrize(("drop", "level"), [(0.0, 0.1), (0.004, 0.1), (0.005, 0.2)])
def test_less_than_an_image_is_none(drop: float, level: float) -> None:
    assert elbow([190, 190, 189], drop) == level


@given(
    right=st.lists(st.integers(0, N), min_size=1, max_size=8),
    drops=st.lists(st.integers(0, 99), min_size=2, max_size=2),
)
def test_it_is_what_the_rule_says_and_rises_with_the_threshold(right: list[int], drops: list[int]) -> None:
    def holds(k: int, percent: int) -> bool:
        return 100 * (right[0] - k) <= percent * N

    low, high = (elbow(right, drop / 100) for drop in sorted(drops))
    assert low <= high
    chosen = round(10 * low)
    assert all(holds(k, min(drops)) for k in right[1 : chosen + 1])
    assert chosen == len(right) - 1 or not holds(right[chosen + 1], min(drops))


def test_levels_of_different_numbers_of_images() -> None:
    mixed = points([190, 190, 190])
    mixed[2] = replace(mixed[2], val_n=100)
    with pytest.raises(TrainingError, match="levels were judged on 100 and 200 validation images; remove"):
        find_elbow(mixed, 0.01)


@pytest.mark.parametrize("wrong", [[], [1, 2], [0, 2, 1], [0, 1, 1]])
def test_levels_that_do_not_rise_from_the_dense_network(wrong: list[int]) -> None:
    there = points([190, 190, 190])
    with pytest.raises(ValueError, match="do not rise from 0"):
        find_elbow([there[i] for i in wrong], 0.01)


@pytest.mark.parametrize("drop", [-0.01, 1.0, float("nan")])
def test_no_share(drop: float) -> None:
    with pytest.raises(ValueError, match="no share"):
        elbow([190, 190], drop)


def test_a_fraction_that_is_no_number_of_images() -> None:
    with pytest.raises(ValueError, match=r"0\.951 is not a share of 200 images"):
        find_elbow([replace(points([190])[0], val_top1_fraction=0.951)], 0.01)
