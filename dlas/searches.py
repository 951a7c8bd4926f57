"""What the searches for a sweep's tuned cells found, trial by trial, from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from dlas import tuned
from dlas.results.entries import Entry
from dlas.results.lines import lines_of
from dlas.results.pages.searches import SearchCurve
from dlas.sweep import Planned
from dlas.systems.autoschedule.record import digest_of
from dlas.trial import Settings, Shelf, Trial

_POINTS = 60  # of a curve


def search_curves(
    planned: Sequence[Planned], rows: Iterable[Entry], root: Path, folders: Mapping[str, Path]
) -> list[SearchCurve]:
    """A curve for each line of these rows that is tuned and whose records are here. Raises StorageError."""
    cells = {each.cell.id: each for each in planned if each.cell.tuning == "tuned"}
    settings = Settings("", root, folders=dict(folders), is_plan=True)
    shelf = Shelf(settings, lambda _: None)
    found = []
    for line in lines_of(row for row in rows if row.cell in cells):
        each = cells[line.first.cell]
        data = shelf.find(each.cell.dataset)
        known = Trial(each, 0, settings, None, data).tuned
        histories = _histories(known.workloads, root, each) if known else []
        if histories:
            found.append(SearchCurve(line.name, tuple(_curve(histories)), line.ids))
    return found


def _histories(workloads: Sequence[str], root: Path, planned: Planned) -> list[list[int]]:
    """For each convolution that was searched, the best time after each trial, ns; the first is by hand."""
    database, compiler = tuned.open_database(root, planned.target), digest_of(planned.target.compiler)
    histories = []
    for workload in workloads:
        times = [record.median_ns for record in database.of(workload, compiler)]
        if times and times[0] is not None:
            measured = [times[0] if each is None else each for each in times]  # what failed gained nothing
            histories.append(list(accumulate(measured, min)))
    return histories


def _curve(histories: Sequence[Sequence[int]]) -> Iterable[tuple[int, float]]:
    """Trials of each convolution, and the sum of the best so far in parts of the hand schedules' sum."""
    longest, hand = max(map(len, histories)), sum(history[0] for history in histories)
    step = max(1, longest // _POINTS)
    for trial in sorted({1, *range(step, longest, step), longest}):
        best = sum(history[min(trial, len(history)) - 1] for history in histories)
        yield trial, best / hand
