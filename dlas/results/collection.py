"""Rows of many files and machines: packed into one file, brought together, checked, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dlas.cache import atomic_write, digest
from dlas.errors import StorageError, UsageError
from dlas.results import entries, schema, store
from dlas.results.tables import count

ROWS_IN_A_GROUP = 8192  # of a packed file: what has to be read for one row
# Computed from the samples, in front of what was stored; `counts` is whether `entries.latest` keeps the row.
COMPUTED = ("counts", "median_ns", "q1_ns", "q3_ns")


def compact(artifacts: Path, sweep: str) -> str:
    """Pack the rows of a sweep into one file, and say so. Rows that newer ones replaced are left out.

    Raises StorageError, and changes nothing, when a file is damaged.
    """
    paths = _files(artifacts, sweep)
    seen = {path: _stamp(path) for path in paths}
    table = store.newest(_table(paths))
    packed = pack(artifacts, sweep, table)
    removed = [path for path in paths if path != packed]
    for path in removed:
        if _stamp(path) == seen[path]:  # else a run has just measured that row anew
            path.unlink()  # its folder stays: a run may be about to write there
    return f"{sweep}: {count(table.num_rows, 'row')} of {count(len(paths), 'file')} in {packed}"


def merge(artifacts: Path, source: Path) -> list[str]:
    """Bring the rows of another folder of results here; a line for each of its sweeps.

    source: an artifacts folder, or its `results`. Rows that are here already, or newer, stay as they are.
    Raises UsageError for a folder without results, StorageError, and changes nothing, for a damaged file.
    """
    other = _artifacts_of(source)
    found = {sweep: store.newest(_table(_files(other, sweep))) for sweep in store.sweeps(other)}
    told = []
    for sweep, theirs in found.items():
        ours = _table(store.files(artifacts, sweep)[0])
        known = set(ours.column(schema.ID).to_pylist())
        kept = set(store.newest(pa.concat_tables([ours, theirs])).column(schema.ID).to_pylist())
        ids = theirs.column(schema.ID).to_pylist()
        fresh = [position for position, each in enumerate(ids) if each in kept - known]
        if fresh:
            pack(artifacts, sweep, theirs.take(fresh))
        here = sum(each in known for each in ids)
        older = len(ids) - len(fresh) - here
        more = f", {older} older than ours left out" if older else ""
        told.append(f"{sweep}: {count(len(fresh), 'row')} added, {here} were here{more}")
    return told


def verify(artifacts: Path, sweeps: Sequence[str]) -> Iterator[str]:
    """Read every file whole, and check what rows say of themselves: a line for each fault, and each sweep.

    Raises StorageError at the end when there was a fault.
    """
    faults = 0
    for sweep in sweeps:
        paths, problems = store.files(artifacts, sweep)
        rows, places = 0, dict[str, Path]()
        for path in paths:
            try:
                table = store.load_table(path)
                schema.check_ids(table)
            except StorageError as error:
                problems.append(error)
                continue
            rows += table.num_rows
            problems += [StorageError(f"{path}: {fault}") for fault in _faults(table)]
            for each in table.column(schema.ID).to_pylist():
                if each in places:
                    yield f"{sweep}: row {each} is in {places[each]} and in {path}; `invoke results compact`"
                places[each] = path
        yield from map(str, problems)
        faults += len(problems)
        yield f"{sweep}: {count(rows, 'row')} in {count(len(paths), 'file')}, {count(len(problems), 'fault')}"
    if faults:
        raise StorageError(f"{count(faults, 'fault')} in the results", "see the lines above")


def export_csv(artifacts: Path, sweeps: Sequence[str], path: Path) -> str:
    """Write all rows and columns of some sweeps as CSV, with what `COMPUTED` names in front.

    Lists are separated by spaces, maps are `key=value` separated by semicolons. Raises StorageError.
    """
    table = pa.concat_tables([store.newest(_table(_files(artifacts, sweep))) for sweep in sweeps])
    counting = {row.id for row in entries.latest(entries.from_table(table))}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COMPUTED, *table.schema.names])
    for row in table.to_pylist():
        samples = row["samples_ns"]
        quartiles = np.quantile(samples, (0.5, 0.25, 0.75)).tolist() if samples else [None] * 3
        computed = [row[schema.ID] in counting, *quartiles]
        writer.writerow([_cell(value) for value in (*computed, *row.values())])
    atomic_write(path, text.getvalue().encode())
    return f"{count(table.num_rows, 'row')} in {path}"


def choose(artifacts: Path, sweep: str) -> list[str]:
    """This sweep, or all that have results where it is empty. Raises UsageError where there are none."""
    known = store.sweeps(artifacts)
    if sweep and sweep not in known:
        raise UsageError(
            f"sweep {sweep!r} has no results", f"those with results: {', '.join(known) or 'none'}"
        )
    if not known:
        raise UsageError(f"no results in {artifacts}", "`invoke run` makes them")
    return [sweep] if sweep else known


def _artifacts_of(folder: Path) -> Path:
    if folder.name == store.FOLDER and folder.is_dir():
        return folder.parent
    if not (folder / store.FOLDER).is_dir():
        raise UsageError(f"{folder} has no results", "name an artifacts folder, or its results folder")
    return folder


def _files(artifacts: Path, sweep: str) -> list[Path]:
    """Raises StorageError when a folder cannot be read."""
    paths, problems = store.files(artifacts, sweep)
    if problems:
        raise problems[0]
    return paths


def _table(paths: Sequence[Path]) -> pa.Table:
    """All rows of these files. Raises StorageError for one that is damaged."""
    table, problems = store.read_tables(paths, schema.SCHEMA.names)
    if problems:
        raise problems[0]
    return table


def pack(artifacts: Path, sweep: str, table: pa.Table) -> Path:
    """Write rows as one file, named by which they are."""
    name = digest(*sorted(table.column(schema.ID).to_pylist()))[:16]
    path = store.packed_path(artifacts, sweep, name)
    texts = [
        field.name for field in table.schema if pa.types.is_string(field.type) and field.name != schema.ID
    ]
    store.write_table(
        path,
        table,
        row_group_size=ROWS_IN_A_GROUP,
        # Samples differ little from one to the next; texts repeat from row to row.
        use_dictionary=[*texts, "kernels.list.element", "fallbacks.list.element"],
        column_encoding={
            "samples_ns.list.element": "DELTA_BINARY_PACKED",
            "warmup_ns.list.element": "DELTA_BINARY_PACKED",
        },
    )
    return path


def _faults(table: pa.Table) -> Iterator[str]:
    """What cannot be, in rows whose form is right."""
    for row in entries.from_table(table):
        if row.cell != "/".join(entries.axes_of(row).values()):
            yield f"row {row.id}: its columns are not those of its cell {row.cell}"
        if row.status == "measured" and len(row.samples_ns) != row.repeats:
            yield f"row {row.id}: {len(row.samples_ns)} samples, not {row.repeats}"
        if (row.samples_ns <= 0).any():
            yield f"row {row.id}: a sample that is not positive"
        if len(row.misclassified) and row.correct is None:
            yield f"row {row.id}: its accuracy is not that of its images"


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return _joined(value)
    return str(value)


def _joined(values: Iterable[Any]) -> str:
    """Of a list, or of a map, which is a list of pairs."""
    pairs = list(values)
    if pairs and isinstance(pairs[0], tuple):
        return ";".join(f"{key}={value}" for key, value in pairs)
    return " ".join(_cell(value) for value in pairs)
