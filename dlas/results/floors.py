"""The noise floors of devices, from the rows of `invoke noise`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dlas.results import entries, noise, store
from dlas.results.entries import Entry
from dlas.results.lines import Line, grouped, lines_of
from dlas.results.noise import Noise
from dlas.results.statistics import MIN_DRAWN
from dlas.results.tables import interval_text, unit_of

SWEEP = "noise"  # whose rows are one artifact against itself

Place = tuple[str, str, int]


@dataclass(frozen=True)
class Floors:
    """Of each place that is known: its noise, and the line that it was measured on."""

    found: Mapping[Place, tuple[Noise, Line]] = field(default_factory=dict)

    def of(self, row: Entry) -> float:
        """By how much the same artifact differs from itself where this row was measured; 0 where unknown."""
        known = self.found.get(_place(row))
        return known[0].floor_fraction if known else 0.0

    def describe(self, row: Entry) -> str:
        known = self.found.get(_place(row))
        if known is None:
            return f"its noise floor was not measured; `invoke noise --target {row.target}` does"
        found, line = known
        return f"noise floor {found.floor_fraction:.2%}, from {found.processes} processes of {line.name}"


NO_FLOORS = Floors()


def read(artifacts: Path) -> Floors:
    """The floors that `invoke noise` has measured; of several cells of a place, the highest counts."""
    rows = entries.latest(store.read(artifacts, SWEEP).rows)
    lines = [line for line in lines_of(rows) if len(line.rows) >= noise.MIN_PROCESSES]
    found = {}
    for group in grouped(lines, lambda line: _place(line.first)):
        measured = [(noise.floor(line.processes), line) for line in group]
        found[_place(group[0].first)] = max(measured, key=lambda pair: pair[0].floor_fraction)
    return Floors(found)


def describe(line: Line, found: Noise) -> str:
    """What `invoke noise` says of one cell, without a newline at its end."""
    ours, unit = line.summary, unit_of(line.median_ns)
    halves = f"{found.halves_ratio:.4f} ({interval_text(found.halves_low, found.halves_high, 4)})"
    told = found.alternating
    return "\n".join(
        [
            line.name,
            f"  noise floor {found.floor_fraction:.2%}: by so much {MIN_DRAWN} processes may differ from "
            f"{MIN_DRAWN} "
            "others of the same artifact",
            f"    random groups of {found.processes} processes {found.splits_fraction:.2%}, "
            f"groups in a row {found.phases_fraction:.2%}",
            f"    last half to first half {halves}; even to odd processes: {told.word}, {told.ratio:.4f}",
            f"    median {ours.median_ns / unit[1]:.3f} {unit[0]}; rows {' '.join(line.ids)}",
        ]
    )


def _place(row: Entry) -> Place:
    return row.device, row.runner, row.threads
