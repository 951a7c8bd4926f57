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

from dlas.cache import atomic_write, digest, storage_error
from dlas.errors import StorageError, UsageError
from dlas.results import entries, schema, store
from dlas.results.identity import ROW_ID_COLUMNS
from dlas.results.tables import count

ROWS_IN_A_GROUP = 2048  # of a packed file: what has to be read for one row, about 10 MB
ROWS_AS_TEXT = 1024  # at once: as Python objects, samples take many times their bytes
# Computed from the samples, in front of what was stored; `counts` is whether `entries.latest` keeps the row
# among those of its sweep.
COMPUTED = ("counts", "median_ns", "q1_ns", "q3_ns")


def compact(artifacts: Path, sweep: str) -> str:
    """Pack the rows of a sweep into one file, and say so. Rows that newer ones replaced are left out.

    Raises StorageError, and changes nothing, when a file is damaged.
    """
    paths = _files(artifacts, sweep)
    seen = {path: _stamp(path) for path in paths}
    table = store.newest(_table(paths))
    if not paths:
        return f"{sweep}: no rows"
    packed = _packed_path(artifacts, sweep, table)
    if paths != [packed]:
        pack(artifacts, sweep, table)
    for path in paths:
        if path != packed and _stamp(path) == seen[path]:  # else a run has just measured that row anew
            _remove(path)  # its folder stays: a run may be about to write there
    return f"{sweep}: {count(table.num_rows, 'row')} of {count(len(paths), 'file')} in {packed}"


def merge(artifacts: Path, source: Path) -> list[str]:
    """Bring the rows of another folder of results here; a line for each of its sweeps.

    source: an artifacts folder, or its `results`. Rows that are here already, or newer, stay as they are.
    Raises UsageError for a folder without results, StorageError, and changes nothing, for a damaged file;
    of our own only what tells rows apart is read.
    """
    other = _artifacts_of(source)
    fresh, told = dict[str, pa.Table](), []
    for sweep in store.sweeps(other):
        theirs = store.newest(_table(_files(other, sweep)))
        ours = _table(_files(artifacts, sweep), ROW_ID_COLUMNS)
        known = set(ours.column(schema.ID).to_pylist())
        both = store.newest(pa.concat_tables([ours, theirs.select(ROW_ID_COLUMNS)]))
        wanted = set(both.column(schema.ID).to_pylist()) - known
        ids = theirs.column(schema.ID).to_pylist()
        fresh[sweep] = theirs.filter(pa.array([each in wanted for each in ids], pa.bool_()))
        here = sum(each in known for each in ids)
        older = len(ids) - fresh[sweep].num_rows - here
        more = f", {older} older than ours left out" if older else ""
        told.append(f"{sweep}: {count(fresh[sweep].num_rows, 'row')} added, {here} were here{more}")
    for sweep, table in fresh.items():
        if table.num_rows:
            pack(artifacts, sweep, table)
    return told


def verify(artifacts: Path, sweeps: Sequence[str]) -> Iterator[str]:
    """Read every file whole, and check what rows say of themselves: a line for each fault, and each sweep.

    Rows that stand in two files are no fault, and have a line. Raises StorageError at the end when there was
    a fault.
    """
    faults = 0
    for sweep in sweeps:
        paths, problems = store.files(artifacts, sweep)
        rows, places, twice = 0, dict[str, Path](), dict[str, str]()
        for path in paths:
            try:
                table = store.load_table(path)
            except StorageError as error:
                problems.append(error)
                continue
            rows += table.num_rows
            problems += [StorageError(f"{path}: {fault}") for fault in _faults(table)]
            for each in table.column(schema.ID).to_pylist():
                if each in places:
                    twice.setdefault(each, f"row {each}, in {places[each]} and in {path}")
                places[each] = path
        yield from map(str, problems)
        if twice:
            first = next(iter(twice.values()))
            yield f"{sweep}: {count(len(twice), 'row')} stored twice, as {first}; `invoke results compact`"
        faults += len(problems)
        yield f"{sweep}: {count(rows, 'row')} in {count(len(paths), 'file')}, {count(len(problems), 'fault')}"
    if faults:
        raise StorageError(f"{count(faults, 'fault')} in the results", "see the lines above")


def export_csv(artifacts: Path, sweeps: Sequence[str], path: Path) -> str:
    """Write all rows and columns of some sweeps as CSV (RFC 4180), with what `COMPUTED` names in front.

    Lists are separated by spaces, maps are `key=value` separated by semicolons. Raises StorageError.
    """
    tables = [store.newest(_table(_files(artifacts, sweep))) for sweep in sweeps]
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its own line ends: with others it leaves a carriage return without quotes
    writer.writerow([*COMPUTED, *schema.SCHEMA.names])
    for table in tables:
        counting = {row.id for row in entries.latest(entries.from_table(table))}
        for batch in table.to_batches(ROWS_AS_TEXT):
            for row in batch.to_pylist():
                samples = row["samples_ns"]
                quartiles = np.quantile(samples, (0.5, 0.25, 0.75)).tolist() if samples else [None] * 3
                computed = [row[schema.ID] in counting, *quartiles]
                writer.writerow([_cell(value) for value in (*computed, *row.values())])
    atomic_write(path, text.getvalue().encode())
    return f"{count(sum(table.num_rows for table in tables), 'row')} in {path}"


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
    artifacts = folder.parent if folder.name == store.FOLDER and folder.is_dir() else folder
    if not store.sweeps(artifacts):
        raise UsageError(f"{folder} has no results", "name an artifacts folder, or its results folder")
    return artifacts


def _files(artifacts: Path, sweep: str) -> list[Path]:
    """Raises StorageError when a folder cannot be read."""
    paths, problems = store.files(artifacts, sweep)
    if problems:
        raise problems[0]
    return paths


def _table(paths: Sequence[Path], columns: Sequence[str] = schema.SCHEMA.names) -> pa.Table:
    """All rows of these files. Raises StorageError for one that is damaged."""
    table, problems = store.read_tables(paths, columns)
    if problems:
        raise problems[0]
    return table


def _packed_path(artifacts: Path, sweep: str, table: pa.Table) -> Path:
    """A file is named by which rows it has, and in which version: what has the same name is the same."""
    ids = sorted(table.column(schema.ID).to_pylist())
    return store.packed_path(artifacts, sweep, digest(str(schema.SCHEMA_VERSION), *ids)[:16])


def pack(artifacts: Path, sweep: str, table: pa.Table) -> Path:
    """Write rows as one file. Raises StorageError."""
    path = _packed_path(artifacts, sweep, table)
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
    for row, made in zip(entries.from_table(table), schema.row_ids(table), strict=True):
        if row.id != made:
            yield f"row {row.id}: its columns make the id {made}"
        if row.cell != "/".join(entries.axes_of(row).values()):
            yield f"row {row.id}: its columns are not those of its cell {row.cell}"
        if row.status == "measured" and len(row.samples_ns) != row.repeats:
            yield f"row {row.id}: {len(row.samples_ns)} samples, not {row.repeats}"
        if (row.samples_ns <= 0).any():
            yield f"row {row.id}: a sample that is not positive"
        wrong = row.misclassified
        if len(wrong) and (wrong[0] < 0 or wrong[-1] >= (row.top1_n or 0) or (np.diff(wrong) <= 0).any()):
            yield f"row {row.id}: its misclassified images are not images in order"
        elif len(wrong) and row.correct is None:
            yield f"row {row.id}: its accuracy is not that of its images"


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None when it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


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
    return " ".join(map(str, pairs))
