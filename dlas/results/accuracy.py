"""Whether an artifact is as accurate as another one, within a drop that is allowed.

Two artifacts that were asked about the same images are a matched pair: an image that both get right, or
both wrong, says nothing of their difference, and what counts are the few that only one of them gets right.
The difference is that of a to b: negative where a is less accurate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from dlas.results.statistics import CONFIDENCE, wilson

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
# With what probability `images_to_decide` would.
POWER = 0.8
# What Tango's interval makes of no differing image is too wide. The exact risk of not seeing a loss of d in n
# images is (1 - d)**n, and this much of it is taken: 360 equal images then hold a point, at 2.7%.
_UNSEEN = 0.03

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """Of accuracy, a - b, as a fraction of the images, with its 95% interval.

    gained, lost: images that only a, or only b, gets right; None where they are not known: the interval is
    then that of two independent sets of images, which is wider than it need be.
    """

    fraction: float
    low: float
    high: float
    images: int
    gained: int | None = None
    lost: int | None = None

    @property
    def is_paired(self) -> bool:
        return self.gained is not None


@dataclass(frozen=True)
class Verdict:
    """word: `holds` when a loses at most the drop, `fails` when more; reason: why it is undecided."""

    word: str
    difference: Difference
    reason: str = ""


def judge(correct_a: Bools, correct_b: Bools, drop_fraction: float) -> Verdict:
    """Whether a loses at most drop_fraction against b; both (n,), true where its class is right, same order.

    Raises ValueError for arrays that are no pairs, and for a drop outside (0, 1).
    """
    return _judged(difference(correct_a, correct_b), drop_fraction)


def judge_counts(hits_a: int, n_a: int, hits_b: int, n_b: int, drop_fraction: float) -> Verdict:
    """As `judge`, where only the numbers of right images are known: as if they were of different ones."""
    return _judged(difference_of_counts(hits_a, n_a, hits_b, n_b), drop_fraction)


def difference(correct_a: Bools, correct_b: Bools) -> Difference:
    """By Tango's score interval (1998, Statistics in Medicine 17, 891-908); exact where no image differs.

    Raises ValueError for arrays that are no pairs.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"pairs of images are needed, not {a.shape} and {b.shape}")
    gained, lost, n = int((a & ~b).sum()), int((b & ~a).sum()), a.size
    if gained == lost == 0:
        end = 1 - _UNSEEN ** (1 / n)
        return Difference(0.0, -end, end, n, 0, 0)
    low, high = -_score_end(lost, gained, n), _score_end(gained, lost, n)
    return Difference((gained - lost) / n, low, high, n, gained, lost)


def difference_of_counts(hits_a: int, n_a: int, hits_b: int, n_b: int) -> Difference:
    """Of two independent sets of images: Newcombe's hybrid score interval.

    It is method 10 of Statistics in Medicine 17, 873-890 (1998). Raises ValueError for what are no counts.
    """
    a, b = hits_a / max(n_a, 1), hits_b / max(n_b, 1)
    (low_a, high_a), (low_b, high_b) = wilson(hits_a, n_a), wilson(hits_b, n_b)
    low = a - b - sqrt((a - low_a) ** 2 + (high_b - b) ** 2)
    high = a - b + sqrt((high_a - a) ** 2 + (b - low_b) ** 2)
    return Difference(a - b, low, high, min(n_a, n_b))


def images_to_decide(found: Difference, drop_fraction: float) -> int | None:
    """How many images would decide with a probability of `POWER`, if the true shares are those found.

    The normal approximation for matched pairs (Nam 1997, Biometrics 53, 1422-1430, without his restricted
    variance), n = (z + z_power)**2 * (p + q - (p - q)**2) / (p - q + drop)**2. p and q are the shares gained
    and lost, with half an image added to each so that none seen does not mean none. Never fewer than show
    the drop when no image differs. None when the difference found is the drop, and for unpaired ones.
    """
    if found.gained is None or found.lost is None:
        return None
    p, q = ((count + 0.5) / (found.images + 1) for count in (found.gained, found.lost))
    margin = p - q + drop_fraction
    if abs(margin) < 1e-9:
        return None
    needed = (_Z + NormalDist().inv_cdf(POWER)) ** 2 * (p + q - (p - q) ** 2) / margin**2
    return ceil(max(needed, log(_UNSEEN) / log(1 - drop_fraction), found.images + 1))


def _judged(found: Difference, drop_fraction: float) -> Verdict:
    if not 0 < drop_fraction < 1:
        raise ValueError(f"a drop of {drop_fraction} is no share of the images")
    if found.low > -drop_fraction:
        return Verdict(HOLDS, found)
    if found.high < -drop_fraction:
        return Verdict(FAILS, found)
    reason = f"undecided on {found.images:,} images"
    if not found.is_paired:
        reason += ", of which only the numbers of right ones are known"
    elif needed := images_to_decide(found, drop_fraction):
        reason += f"; about {_rounded(needed):,} would tell"
    return Verdict(UNDECIDED, found, reason)


def _rounded(number: int) -> int:
    """Up, to two digits.

    >>> _rounded(2243), _rounded(368), _rounded(7)
    (2300, 370, 7)
    """
    step = int(10 ** max(len(str(number)) - 2, 0))
    return -(-number // step) * step


def _score_end(gained: int, lost: int, n: int) -> float:
    """The largest difference that the score test of gained - lost does not refuse, by bisection."""
    low, high = (gained - lost) / n, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _score(gained, lost, n, middle) > -_Z else (low, middle)
    return low


def _score(gained: int, lost: int, n: int, true: float) -> float:
    """Tango's z for a true difference in (-1, 1), of which the likeliest share of lost images follows."""
    b = (2 * n - gained + lost) * true - gained - lost
    share = (sqrt(b * b + 8 * n * lost * true * (1 - true)) - b) / (4 * n)
    return (gained - lost - n * true) / sqrt(n * (2 * share + true * (1 - true)))
