"""Observations of size: whether what is smaller is faster, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED
from dlas.results.choice import accuracy_of, reference_of
from dlas.results.lines import Line, grouped
from dlas.results.observations.evidence import Evidence, Place, forms, ids_of, name_of
from dlas.results.observations.findings import Contest, Finding, most, some
from dlas.results.observations.races import FASTER, NOT_FASTER, race

# What has more than this part of another's bytes is not called smaller.
SMALLER = 0.9
DROP_FRACTION = 0.01  # of top-1 accuracy: what may be lost at equal accuracy
SPARSE = ("csr", "csr_packed", "ell", "auto")


def smaller_is_not_always_faster(evidence: Evidence) -> Finding:
    """By `some`: the fastest way to compute a form is slower than that of a form with more bytes of weights.

    Compared are the networks of a dataset as they were trained, and the forms of each network.
    """
    contests = [
        race(evidence, place, small, large, NOT_FASTER, note=f", with {share:.2f} of its weight bytes")
        for place in evidence.places
        for small, large, share in _by_size(place)
    ]
    return some(
        "A smaller network is not always faster.",
        contests,
        "no two networks of a dataset, or forms of a network, with different bytes of weights were measured "
        'on one place; name several in model, or "channel@elbow_shrunk" in compression',
    )


def removed_channels_pay_less(evidence: Evidence) -> Finding:
    """By `most`: a network without its weak channels takes more of the time than it has of the parameters.

    Compared are lines with the same algorithm and schedules. Parameters, since rows do not say how many
    multiply-adds a network has; of a convolution, removed channels take the same share of both.
    """
    contests = []
    for place in evidence.places:
        for line in place.lines:
            dense = place.twin(line, compression="dense")
            kept = _share_of_parameters(line, dense)
            if line.first.compression.endswith("_shrunk") and dense and kept:
                note = f", with {kept:.2f} of its parameters"
                contests.append(race(evidence, place, [line], [dense], NOT_FASTER, kept, note))
    return most(
        "Removing channels mostly makes a network faster by less than the share of parameters removed.",
        contests,
        "no network was measured both whole and without channels; name "
        '"dense" and "channel@elbow_shrunk" in compression',
    )


def weight_pruning_is_smaller(evidence: Evidence) -> Finding:
    """By `most`, over networks: the fewest bytes of weights at equal accuracy, by each way of pruning.

    Bytes are exact. Equal accuracy: not shown to lose more than a point against the dense network, image by
    image, and what is smaller is not shown to lose more than a point against the other.
    """
    groups = grouped((line for place in evidence.places for line in place.lines), lambda line: line.contest)
    contests = [contest for group in groups for contest in _smallest(group)]
    return most(
        "At equal accuracy, pruning weights mostly makes a network smaller than pruning channels.",
        contests,
        _NOT_PRUNED,
    )


def weight_pruning_is_faster(evidence: Evidence) -> Finding:
    """By `most`, over networks and places: the shortest time at equal accuracy, which is as in size."""
    contests = []
    for place in evidence.places:
        for lines in grouped(place.lines, lambda line: line.contest):
            weights, channels = _pruned(lines)
            if weights and channels:
                contests.append(_race_of_equals(evidence, place, weights, channels))
    return most(
        "At equal accuracy, pruning weights mostly makes a network faster than pruning channels.",
        contests,
        _NOT_PRUNED,
    )


_NOT_PRUNED = (
    "no network was measured dense, with weights pruned in a sparse format, and without channels, all with "
    'accuracy; name "weight@elbow" and "channel@elbow_shrunk" in compression, and include format = '
    '"csr_packed"'
)


def _by_size(place: Place) -> Iterator[tuple[list[Line], list[Line], float]]:
    """Pairs of forms, the smaller one first, and what part of the other's bytes it has."""
    for of_dataset in grouped(place.lines, lambda line: line.first.dataset):
        known = forms(of_dataset)
        for one, other in combinations(known, 2):
            a, b = one[0].first, other[0].first
            as_trained = all((row.compression, row.precision, row.format) == _DENSE for row in (a, b))
            sizes = _bytes(one), _bytes(other)
            if (a.model == b.model or as_trained) and min(sizes) > 0:
                share = min(sizes) / max(sizes)
                if share <= SMALLER:
                    yield (one, other, share) if sizes[0] < sizes[1] else (other, one, share)


_DENSE = ("dense", "fp32", "dense")


def _bytes(form: list[Line]) -> int:
    """Of its weights; algorithms keep them a little differently, so that of the largest."""
    return max(line.first.weight_bytes or 0 for line in form)


def _share_of_parameters(line: Line, dense: Line | None) -> float:
    """0 where it is not known."""
    whole = dense.first.dense_weight_bytes if dense else None
    return (line.first.dense_weight_bytes or 0) / whole if whole else 0.0


def _pruned(lines: list[Line]) -> tuple[list[Line], list[Line]]:
    """Of a network, the lines with pruned weights and those with pruned channels that keep its accuracy.

    None of both where one has only forms that compute their zeros, as those are as large and slow as before.
    """
    reference = reference_of(lines)
    sides = []
    for technique in ("weight", "channel"):
        side = []
        for line in lines:
            row = line.first
            is_asked = row.compression.startswith(technique) and row.precision == "fp32"
            found = accuracy_of(line, reference, DROP_FRACTION) if is_asked else None
            if found and found.word != FAILS:
                side.append(line)
        sides.append(side)
    is_fair = all(any(_leaves_out(line) for line in side) for side in sides)
    return (sides[0], sides[1]) if is_fair else ([], [])


def _leaves_out(line: Line) -> bool:
    """Whether what was pruned is left out, not computed."""
    return line.first.format in SPARSE or line.first.compression.endswith("_shrunk")


def _loses(line: Line, other: Line) -> bool:
    """Whether it is shown to be less accurate by more than a point."""
    found = accuracy_of(line, other, DROP_FRACTION)
    return found is not None and found.word == FAILS


def _smallest(lines: list[Line]) -> list[Contest]:
    """The smallest of both ways of pruning; none where one is missing."""
    sides = [[line for line in side if line.first.weight_bytes] for side in _pruned(lines)]
    if not all(sides):
        return []
    weight, channel = (min(side, key=lambda line: line.first.weight_bytes or 0) for side in sides)
    share = (weight.first.weight_bytes or 0) / (channel.first.weight_bytes or 1)
    word = UNDECIDED
    if share < 1 and not _loses(weight, channel):
        word = HOLDS
    if share > 1 and not _loses(channel, weight):
        word = FAILS
    text = f"{name_of(weight)} has {share:.2f} of the weight bytes of {name_of(channel)}"
    return [Contest(lambda *_: word, text, ids_of((weight, channel)), abs(share - 1))]


def _race_of_equals(evidence: Evidence, place: Place, weights: list[Line], channels: list[Line]) -> Contest:
    """A race that nobody wins by being less accurate."""
    raced = race(evidence, place, weights, channels, FASTER)
    weight, channel = (min(side, key=lambda line: line.median_ns) for side in (weights, channels))

    def judge(holds_risk: float, fails_risk: float) -> str:
        word = raced.judge(holds_risk, fails_risk)
        winner, loser = (weight, channel) if word == HOLDS else (channel, weight)
        return UNDECIDED if _loses(winner, loser) else word

    return Contest(judge, raced.text, raced.ids, raced.clearness, raced.is_few)
