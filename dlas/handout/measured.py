"""Which row of a cell is handed out, and what it says. Nothing else in this room looks into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dlas.errors import DlasError, StorageError, UsageError, did_you_mean
from dlas.results import floors, store
from dlas.results.entries import Entry, latest, place_of
from dlas.results.statistics import Summary, summarize
from dlas.sweepfile import OF_DATASET

_COUNTED = ("measured", "emulated")
_PARTS = 8  # of a cell's id


@dataclass(frozen=True)
class Measured:
    """A cell as it was measured: its newest row that counts, and other processes of the same artifact there.

    ids: of these rows. device: what it ran on, as that calls itself, and what it imitated, if it did.
    summary: of all these processes, None where times mean nothing, because the processor was imitated.
    top1_fraction is of top1_n images.
    """

    cell: str
    ids: tuple[str, ...]
    sweep: str
    dataset: str
    precision: str
    target: str
    device: str
    threads: int
    cpu_set: str
    started_at: datetime
    artifact_sha256: str
    is_publishable: bool
    max_error_over_scale: float
    top1_fraction: float | None
    top1_n: int | None
    summary: Summary | None


def find(artifacts: Path, cell: str, sweep: str = "") -> Measured:
    """The newest row of a cell that counts, of one sweep or of all; measured before emulated.

    sweep: a name, or a file. Raises UsageError where there is none, StorageError where it cannot be read.
    """
    # What was run against itself has no accuracy, and its newest row says nothing that the sweep's does not.
    others = [name for name in store.sweeps(artifacts) if name != floors.SWEEP]
    names = [Path(sweep).stem] if sweep else others
    stored = [store.read(artifacts, name) for name in names]
    rows = [row for each in stored for row in latest(each.rows)]
    counted = [row for row in rows if row.status in _COUNTED and row.artifact_sha256]
    mine = [row for row in counted if row.cell == cell]
    if not mine:
        problems = [problem for each in stored for problem in each.problems]
        raise _not_measured(cell, sweep, rows, counted, problems)
    newest = max(mine, key=lambda row: (row.status == "measured", row.started_at))
    return _measured(newest, [row for row in mine if _is_beside(row, newest)])


def command(verb: str, cell: str, sweep: str) -> str:
    """What makes this cell again."""
    dataset, target = cell.split("/")[0], cell.split("/")[-1]
    name = sweep or OF_DATASET.get(dataset, dataset)
    return f"`invoke {verb} --sweep {name} --target {target} --only '{cell}'`"


def _is_beside(row: Entry, newest: Entry) -> bool:
    """Whether it is a process of the same artifact in the same place."""
    return (row.sweep, row.artifact_sha256, place_of(row)) == (
        newest.sweep,
        newest.artifact_sha256,
        place_of(newest),
    )


def _measured(newest: Entry, rows: Sequence[Entry]) -> Measured:
    device = newest.gpu or newest.device_model or "a device without a name"
    samples = [row.samples_ns for row in rows if row.is_timed]
    judged = next((row for row in (newest, *rows) if row.top1_fraction is not None), newest)
    return Measured(
        cell=newest.cell,
        ids=tuple(row.id for row in rows),
        sweep=newest.sweep,
        dataset=newest.dataset,
        precision=newest.precision,
        target=newest.target,
        device=f"{device}, imitating {newest.target}" if newest.status == "emulated" else device,
        threads=newest.threads,
        cpu_set=newest.cpu_set,
        started_at=newest.started_at,
        artifact_sha256=newest.artifact_sha256,
        is_publishable=all(row.publishable for row in rows),
        max_error_over_scale=newest.max_error_over_scale or 0.0,
        top1_fraction=judged.top1_fraction,
        top1_n=judged.top1_n,
        summary=summarize(samples) if samples else None,
    )


def _not_measured(
    cell: str, sweep: str, rows: Sequence[Entry], counted: Sequence[Entry], problems: Sequence[StorageError]
) -> DlasError:
    """Why a cell has no row that counts, and what to do."""
    where = f" in sweep {Path(sweep).stem}" if sweep else ""
    if cell.count("/") != _PARTS - 1:
        hint = did_you_mean(cell, {row.cell for row in counted}) or "`invoke report` prints those that are"
        return UsageError(f"{cell!r} is no cell's id", hint)
    again = f"{command('run', cell, sweep)} measures it"
    own = [row for row in rows if row.cell == cell]
    if own:
        newest = max(own, key=lambda row: row.started_at)
        reason = f": {newest.reason}" if newest.reason else ""
        return UsageError(f"{cell} has no result{where}, its newest row is {newest.status}{reason}", again)
    unread = next((problem for problem in problems if f"/{cell}/" in problem.cause), None)
    if unread is not None:
        return unread
    hint = did_you_mean(cell, {row.cell for row in counted})
    return UsageError(f"{cell} was not measured{where}", f"{hint} {again}".strip())
