"""Observations of smaller numbers: 8-bit integers and 16-bit floats."""

from __future__ import annotations

from dlas.results.lines import grouped
from dlas.results.observations.evidence import Evidence, forms
from dlas.results.observations.findings import Finding, every, most
from dlas.results.observations.races import EQUAL, FASTER, NOT_FASTER, race


def integers_are_faster(evidence: Evidence) -> Finding:
    """By `most`: the fastest way to compute a network in 8-bit integers is faster than that in float32."""
    contests = []
    for place in evidence.places:
        for network in grouped(place.lines, lambda line: (*line.contest, line.first.compression)):
            by_kind = {(form[0].first.precision, form[0].first.format): form for form in forms(network)}
            for (precision, form_format), form in by_kind.items():
                floats = by_kind.get(("fp32", form_format))
                if precision.startswith("int8") and floats:
                    contests.append(race(evidence, place, form, floats, FASTER))
    return most(
        "Quantizing to 8-bit integers mostly makes a network faster.",
        contests,
        'no network was measured both in integers and in float32; name "int8" and "fp32" in precision',
    )


def half_storage_is_not_faster(evidence: Evidence) -> Finding:
    """By `every`: a network with 16-bit floats in memory takes at least 95% of the time of one with 32 bits.

    Only on CPUs, where fp16 is computed in float32. Compared are lines with the same algorithm and schedules.
    """
    contests = []
    for place in evidence.places:
        for line in place.lines:
            floats = place.twin(line, precision="fp32")
            if line.first.precision == "fp16" and floats and not place.hardware[1]:
                contests.append(race(evidence, place, [line], [floats], NOT_FASTER, EQUAL))
    return every(
        "16-bit floats in memory, computed as 32-bit ones, make no network faster on a CPU.",
        contests,
        'no network was measured both in fp16 and in fp32 on a CPU; name "fp16" and "fp32" in precision',
    )
