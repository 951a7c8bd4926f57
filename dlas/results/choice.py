"""Which configuration to take: the fastest whose accuracy is within a bound, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dlas.results import accuracy, verdict
from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED
from dlas.results.entries import Entry
from dlas.results.lines import Line, judge
from dlas.results.verdict import Verdict

UNKNOWN = "unknown"
# Each verdict is a bootstrap; what is further behind than these is slower than the best, or cannot be told.
JUDGED = 5


@dataclass(frozen=True)
class Candidate:
    """A line and what is to be said of it.

    accuracy: against the reference's, None where there is none to compare. verdict: its time against that of
    the best; None for the best itself, and for those far behind.
    """

    line: Line
    accuracy: accuracy.Verdict | None
    verdict: Verdict | None = None

    @property
    def word(self) -> str:
        """holds, fails or undecided: whether its accuracy is within the bound; unknown without accuracy."""
        return self.accuracy.word if self.accuracy else UNKNOWN

    @property
    def doubt(self) -> str:
        """Why its accuracy is undecided, or unknown."""
        return self.accuracy.reason if self.accuracy else self.line.first.accuracy_reason or "no accuracy"


@dataclass(frozen=True)
class Choice:
    """The answer for some lines of one place and dataset, each list with the fastest first.

    reference: the network whose accuracy is the measure. best: the fastest that holds the bound, or None.
    runners_up: the others that hold it. faster: those that would be faster than the best, if their accuracy
    held, which their images cannot tell, or which nobody has taken. failing: those that lose more.
    """

    drop_fraction: float
    reference: Line | None
    best: Candidate | None
    runners_up: tuple[Candidate, ...]
    faster: tuple[Candidate, ...]
    failing: tuple[Candidate, ...]

    @property
    def equals(self) -> tuple[Candidate, ...]:
        """Runners-up that cannot be told apart from the best."""
        near = (each for each in self.runners_up if each.verdict)
        return tuple(each for each in near if each.verdict and each.verdict.word == verdict.UNDECIDED)


def choose(lines: Sequence[Line], drop_fraction: float, noise_fraction: float = 0.0) -> Choice:
    """Of the publishable ones of these lines, all of one place and dataset.

    The reference is the most accurate of the dense networks in fp32 that are among them. noise_fraction: as
    for `verdict.judge`.
    """
    ranked = sorted((line for line in lines if line.is_publishable), key=lambda line: line.median_ns)
    reference = reference_of(ranked)
    found = [Candidate(line, accuracy) for line, accuracy in _accuracies(ranked, reference, drop_fraction)]
    holding = [each for each in found if each.word == HOLDS]
    best = holding[0] if holding else None
    open_ones = [each for each in found if each.word in (UNDECIDED, UNKNOWN)]
    return Choice(
        drop_fraction,
        reference,
        best,
        _judged(holding[1:], best, noise_fraction),
        _judged([each for each in open_ones if _is_ahead(each, best)], best, noise_fraction),
        tuple(each for each in found if each.word == FAILS),
    )


def fastest_dense(lines: Iterable[Line]) -> Line | None:
    """The fastest of the dense networks in fp32 among these."""
    return min((line for line in lines if line.is_reference), key=lambda line: line.median_ns, default=None)


def reference_of(lines: Sequence[Line]) -> Line | None:
    """The most accurate dense network in fp32; of several lines of it, the one whose cell comes first."""
    dense = [line for line in lines if line.is_reference]
    return min(dense, key=lambda line: (-(line.top1_fraction or 0.0), line.first.cell), default=None)


def _accuracies(
    lines: Sequence[Line], reference: Line | None, drop_fraction: float
) -> Iterable[tuple[Line, accuracy.Verdict | None]]:
    """Each line with what is to be said of its accuracy, judged once for all that predict the same."""
    known: dict[tuple[str, str], accuracy.Verdict | None] = {}
    for line in lines:
        row = line.judged
        key = (row.predictions_sha256, row.dataset_sha256) if row else ("", "")
        if not key[0]:
            yield line, accuracy_of(line, reference, drop_fraction)
            continue
        if key not in known:
            known[key] = accuracy_of(line, reference, drop_fraction)
        yield line, known[key]


def accuracy_of(line: Line, reference: Line | None, drop_fraction: float) -> accuracy.Verdict | None:
    """Whether a line is at most so much less accurate than the reference; None where one has no accuracy.

    Image by image where both tell of the same images, else by their shares.
    """
    ours, its = line.judged, reference.judged if reference else None
    if ours is None or its is None or ours.dataset != its.dataset:
        return None
    is_same = (ours.dataset_sha256, ours.top1_n) == (its.dataset_sha256, its.top1_n)
    a, b = (line.correct, reference.correct) if is_same and reference else (None, None)
    if a is not None and b is not None:
        return accuracy.judge(a, b, drop_fraction)
    return accuracy.judge_counts(*_hits(ours), *_hits(its), drop_fraction)


def _hits(row: Entry) -> tuple[int, int]:
    """Images that are right, of how many."""
    n = row.top1_n or 0
    return round((row.top1_fraction or 0.0) * n), n


def _is_ahead(candidate: Candidate, best: Candidate | None) -> bool:
    return best is None or candidate.line.median_ns < best.line.median_ns


def _judged(
    candidates: Sequence[Candidate], best: Candidate | None, noise_fraction: float
) -> tuple[Candidate, ...]:
    """With the verdicts of the first of them against the best."""
    if best is None:
        return tuple(candidates)
    near = [
        replace(each, verdict=judge(each.line, best.line, noise_fraction)) for each in candidates[:JUDGED]
    ]
    return (*near, *candidates[JUDGED:])
