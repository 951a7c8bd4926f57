"""Observations of zeros: what they are worth where they are computed, and where they are left out."""

from __future__ import annotations

from dlas.results.lines import Line
from dlas.results.observations.evidence import Evidence, forms
from dlas.results.observations.findings import Contest, Finding, every, some
from dlas.results.observations.races import EQUAL, NOT_FASTER, race

COMPUTES_ZEROS = ("dense", "blocked")
LEAVES_OUT = ("csr", "csr_packed", "ell")  # in each layer, whether that is faster or not; `auto` chooses


def zeros_alone_gain_nothing(evidence: Evidence) -> Finding:
    """By `every`: a pruned network that computes its zeros takes at least 95% of the unpruned one's time.

    Compared are lines with the same algorithm and schedules.
    """
    contests = []
    for place in evidence.places:
        for line in place.lines:
            row = line.first
            has_zeros = row.compression != "dense" and not row.compression.endswith("_shrunk")
            dense = place.twin(line, compression="dense")
            if has_zeros and row.format in COMPUTES_ZEROS and dense:
                contests.append(race(evidence, place, [line], [dense], NOT_FASTER, EQUAL))
    return every(
        "Zeros alone make nothing faster: a pruned network in dense format takes as long as before.",
        contests,
        "no network was measured both dense and pruned in dense format; name "
        '"dense" and "weight@elbow" in compression',
    )


def sparse_formats_do_not_always_pay(evidence: Evidence) -> Finding:
    """By `some`: the fastest way to leave zeros out is slower than the fastest to compute them.

    Formats that leave them out layer by layer, where that is estimated to pay, are not meant.
    """
    contests: list[Contest] = []
    zeros: list[float] = []
    for place in evidence.places:
        known = {_form(form[0]): form for form in forms(place.lines)}
        for (*network, form_format), form in known.items():
            dense = known.get((*network, "dense"))
            if form_format in LEAVES_OUT and dense:
                zeros.append(form[0].first.mac_sparsity_fraction or 0.0)
                note = f", with {zeros[-1]:.0%} of its multiply-adds by zero"
                contests.append(race(evidence, place, form, dense, NOT_FASTER, note=note))
    return some(
        "Sparse formats do not always pay: some pruned networks are faster with their zeros computed.",
        contests,
        "no pruned network was measured both in a sparse and in dense format; "
        'include format = "csr" for a pruned compression',
    )


def _form(line: Line) -> tuple[str, ...]:
    row = line.first
    return row.dataset, row.model, row.compression, row.precision, row.format
