"""The elbow: how far a network is pruned before it loses accuracy (PROTOCOL C5).

The rule: the largest level such that it and every smaller level are right on as many validation images as
the dense network, less at most a given share of them. The share is fixed before the levels are seen.

A detector of knees (Kneedle and its kin) looks for the bend of the curve instead, and so picks points after
drops that no one would call insignificant: 11 points of accuracy on handwritten digits. Every smaller level
has to hold too, so that one lucky level behind a drop is not taken. Levels are chosen on the validation
split alone, so that the accuracy on the test split stays one of images that decided nothing.

Right answers are whole images, and so is what may be lost: 1% of 179 images is one. A share below one image
allows no loss at all. On small sets one image more or less decides, and another seed gives another elbow.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise, takewhile
from math import floor

from dlas.errors import TrainingError
from dlas.values import LevelPoint


def find_elbow(points: Sequence[LevelPoint], max_drop_fraction: float) -> LevelPoint:
    """The last point before the first that loses too much; the first one where no level holds.

    points: of one network and technique, from the dense network at level 0 upwards. max_drop_fraction:
    of the validation images, 0 or more and below 1. Raises ValueError for other points or shares, and
    TrainingError for points on different numbers of images.
    """
    _check(points)
    dense, *pruned = points
    least = _right(dense) - images_allowed(max_drop_fraction, dense.val_n)
    return [dense, *takewhile(lambda point: _right(point) >= least, pruned)][-1]


def images_allowed(max_drop_fraction: float, n: int) -> int:
    """How many of n images a level may get wrong beyond those of the dense network.

    The share counts as the decimal that it is written as: 0.29 of 100 is 29, which floats miss.

    >>> images_allowed(0.01, 179), images_allowed(0.29, 100), images_allowed(0.01, 99)
    (1, 29, 0)
    """
    if not 0 <= max_drop_fraction < 1:  # also where it is not a number
        raise ValueError(f"{max_drop_fraction} is no share from 0 to below 1")
    return floor(Fraction(str(float(max_drop_fraction))) * n)


def _check(points: Sequence[LevelPoint]) -> None:
    levels = [point.level_fraction for point in points]
    if not levels or levels[0] != 0 or any(low >= high for low, high in pairwise(levels)):
        raise ValueError(f"levels {levels} do not rise from 0")
    counts = sorted({point.val_n for point in points})
    if len(counts) > 1:
        cause = f"levels were judged on {' and '.join(map(str, counts))} validation images"
        raise TrainingError(cause, "remove the checkpoints of these levels and run the sweep again")


def _right(point: LevelPoint) -> int:
    """Images of the validation split that the network gets right. Raises ValueError for no whole number."""
    share = point.val_top1_fraction * point.val_n
    if point.val_n < 1 or abs(round(share) - share) > 1e-6 * point.val_n:
        raise ValueError(f"{point.val_top1_fraction} is not a share of {point.val_n} images")
    return round(share)
