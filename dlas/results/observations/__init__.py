"""The observations of the DLAS paper, as questions to a user's own rows: does it hold here, and why?

To add an observation, write a function that takes an `Evidence` and returns a `Finding`, and name it in
`OBSERVATIONS`. The function collects comparisons: each is a `Contest`, most often a `race` between two sides
of a place (`races`). Then it hands them to the rule that its statement is of, which decides the word:
`some` for what is so at least once, `every` for what is always so, `most` for a tendency (`findings`). The
statement is one plain sentence that can be false; the last argument says what to measure where there is
nothing to compare. As an example, `numbers` has two of the shortest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlas.results.entries import Entry
from dlas.results.floors import Floors
from dlas.results.observations.algorithms import (
    best_algorithm_changes_when_tuned,
    no_algorithm_is_best_for_all,
    tuning_gains_more_than_algorithm,
)
from dlas.results.observations.evidence import Evidence
from dlas.results.observations.findings import Contest, Example, Finding, describe, every, most, some
from dlas.results.observations.hardware import speedups_depend_on_hardware
from dlas.results.observations.numbers import half_storage_is_not_faster, integers_are_faster
from dlas.results.observations.optima import fastest_is_not_most_accurate
from dlas.results.observations.races import race
from dlas.results.observations.sizes import (
    removed_channels_pay_less,
    smaller_is_not_always_faster,
    weight_pruning_is_faster,
    weight_pruning_is_smaller,
)
from dlas.results.observations.zeros import sparse_formats_do_not_always_pay, zeros_alone_gain_nothing

__all__ = [
    "Contest",
    "Evidence",
    "Example",
    "Finding",
    "describe",
    "every",
    "most",
    "observe",
    "race",
    "some",
]

# In the order in which they are told.
OBSERVATIONS: tuple[Callable[[Evidence], Finding], ...] = (
    smaller_is_not_always_faster,
    best_algorithm_changes_when_tuned,
    no_algorithm_is_best_for_all,
    speedups_depend_on_hardware,
    weight_pruning_is_smaller,
    weight_pruning_is_faster,
    zeros_alone_gain_nothing,
    sparse_formats_do_not_always_pay,
    removed_channels_pay_less,
    integers_are_faster,
    half_storage_is_not_faster,
    fastest_is_not_most_accurate,
    tuning_gains_more_than_algorithm,
)


def observe(rows: Sequence[Entry], floors: Floors) -> list[Finding]:
    """What the publishable ones of these rows, as `entries.latest` gives them, say of each observation."""
    evidence = Evidence(rows, floors)
    return [ask(evidence) for ask in OBSERVATIONS]
