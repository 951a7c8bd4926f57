"""Rows on disk: `artifacts/results/<sweep>/<cell id>/<identity>.parquet`, one file per row.

`dlas.results.collection` packs the rows of a sweep into one file, `<sweep>/rows-<digest>.parquet`.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dlas.cache import atomic_write
from dlas.errors import StorageError
from dlas.results import entries, identity, schema
from dlas.results.entries import Entry
from dlas.results.identity import Identity, identify
from dlas.values import Row

FOLDER = "results"
# The others are tried again by the next run.
FINAL_STATUSES = ("measured", "invalid", "emulated")
PACKED = "rows-"  # how the name of a file of many rows begins

_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Stored:
    """The rows of a sweep, and one error for each file that could not be read."""

    rows: tuple[Entry, ...]
    problems: tuple[StorageError, ...] = ()


def write(artifacts: Path, row: Row) -> Path:
    """Store a row, in place of an older one of the same identity. Raises StorageError."""
    path = _folder(artifacts, row.sweep, row.cell) / _name(identify(row))
    # A dictionary and statistics are of no use for one line, and twice the bytes and the time.
    write_table(path, schema.to_table(row), use_dictionary=False, write_statistics=False)
    return path


def write_table(path: Path, table: pa.Table, **how: object) -> None:
    """Write a Parquet file, its pages with checksums, whole or not at all. Raises StorageError."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True, **how)
    atomic_write(path, buffer.getvalue())


def find(artifacts: Path, sweep: str, identity: Identity) -> Row | None:
    """The finished row that makes measuring `identity` needless, or None.

    A row of more repeats will do, one of fewer never. Of rows with the same repeats only the newest is asked.
    Raises StorageError for a damaged file.
    """
    siblings = _siblings(_folder(artifacts, sweep, identity.cell), identity.stem)
    loose = [path for repeats, path in siblings if repeats >= identity.repeats]
    packed = packed_files(artifacts, sweep)
    try:
        rows = [*map(load, loose), *(row for path in packed for row in _packed_rows(path, identity))]
    except StorageError:
        if all(map(os.path.lexists, (*loose, *packed))):
            raise
        return find(artifacts, sweep, identity)  # they have just been packed
    current: dict[int, Row] = {}
    for row in rows:
        if row.started_at >= current.setdefault(row.repeats, row).started_at:
            current[row.repeats] = row
    longest_first = (current[repeats] for repeats in sorted(current, reverse=True))
    return next((row for row in longest_first if row.status in FINAL_STATUSES), None)


def read(artifacts: Path, sweep: str) -> Stored:
    """All rows of a sweep, of every age, ordered by cell and identity.

    One file that is damaged, or of another version, hides no other row: it becomes a problem. Of rows with
    the same identity, the newest counts. Temporary files are not seen.
    """
    paths, problems = files(artifacts, sweep)
    table, unread = read_tables(paths, entries.COLUMNS)
    if unread and not all(map(os.path.lexists, paths)):
        return read(artifacts, sweep)  # they have just been packed
    rows = entries.from_table(table)
    if len(paths) > 1:
        key = attrgetter(*identity.COLUMNS)
        rows = [rows[place] for place in _newest((key(row), row.started_at) for row in rows)]
    return Stored(tuple(rows), tuple(problems + unread))


def read_tables(paths: Sequence[Path], columns: Sequence[str]) -> tuple[pa.Table, list[StorageError]]:
    """The rows of these files in one table, in their order, and an error for each that is damaged."""
    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(lambda path: _try_load(path, columns), paths))
    problems = [item for item in loaded if isinstance(item, StorageError)]
    tables = [item for item in loaded if isinstance(item, pa.Table)]
    return pa.concat_tables([pa.Table.from_batches([], schema.of_columns(columns)), *tables]), problems


def sweeps(artifacts: Path) -> list[str]:
    """The names of the sweeps that have results."""
    folder = artifacts / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def load(path: Path) -> Row:
    """Read the file of one row. Raises StorageError as `load_table`."""
    return schema.to_row(load_table(path))


def load_table(
    path: Path, columns: Sequence[str] = schema.SCHEMA.names, group: int | None = None
) -> pa.Table:
    """The rows of a file, or of one row group of it, in this version.

    Raises StorageError for a file that is damaged or misplaced.
    """
    is_packed = path.name.startswith(PACKED)
    try:
        # Whole, where a map would do: a file that is replaced meanwhile must not be half of each.
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        asked = columns if is_packed else [*columns, *identity.ROW_ID_COLUMNS]
        stored = schema.stored_columns(file.schema_arrow, asked)
        groups = range(file.num_row_groups) if group is None else [group]
        table = file.read_row_groups(groups, stored, use_threads=is_packed)
        table = schema.upgrade(table, list(dict.fromkeys(asked)))
        if not is_packed:
            _check_home(path, table)
        return table.select(columns)
    except StorageError as error:
        raise StorageError(f"{path}: {error.cause}", error.next_step) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"{path} is damaged: {reason}", "delete it and run the sweep again") from error


def files(artifacts: Path, sweep: str) -> tuple[list[Path], list[StorageError]]:
    """The files of a sweep in order, and an error for each folder that cannot be read."""
    folder = sweep_folder(artifacts, sweep)
    problems: list[StorageError] = []
    if not folder.is_dir():
        return [], problems
    walk = os.walk(folder, onerror=lambda error: problems.append(unreadable(Path(error.filename), error)))
    paths = {Path(parent, name) for parent, _, names in walk for name in names}
    # Once more, at the end: what is packed meanwhile is then seen twice rather than not at all.
    paths.update(packed_files(artifacts, sweep))
    return sorted(path for path in paths if path.suffix == _SUFFIX), problems


def packed_files(artifacts: Path, sweep: str) -> list[Path]:
    """The files of many rows of a sweep."""
    return sorted(sweep_folder(artifacts, sweep).glob(f"{PACKED}*{_SUFFIX}"))


def packed_path(artifacts: Path, sweep: str, name: str) -> Path:
    return sweep_folder(artifacts, sweep) / f"{PACKED}{name}{_SUFFIX}"


def sweep_folder(artifacts: Path, sweep: str) -> Path:
    """Raises StorageError for a sweep whose name cannot be that of a folder."""
    return artifacts / FOLDER / _checked(sweep)


def unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be read: {error.strerror}", "check its permissions and the disk")


def _try_load(path: Path, columns: Sequence[str]) -> pa.Table | StorageError:
    try:
        return load_table(path, columns)
    except StorageError as error:
        return error


def _check_home(path: Path, table: pa.Table) -> None:
    """Raises StorageError unless this is one row, in a file of its name: a copy would count as a process."""
    if table.num_rows != 1:
        raise StorageError(f"it holds {table.num_rows} rows, not one", "move it away")
    schema.check_ids(table)
    ((columns),) = table.select(identity.COLUMNS).to_pylist()
    home = f"/{columns['cell']}/{_name(Identity(**columns))}"
    if not path.as_posix().endswith(home):
        raise StorageError("it holds another row than its name says", "delete it, or move it back")


def newest(table: pa.Table) -> pa.Table:
    """Of rows with the same identity the newest alone, ordered by cell and identity."""
    keys = zip(*(table.column(name).to_pylist() for name in identity.COLUMNS), strict=True)
    moments = table.column("started_at").cast(pa.int64()).to_pylist()
    return table.take(pa.array(_newest(zip(keys, moments, strict=True)), pa.int64()))


def _newest(rows: Iterable[tuple[tuple[Any, ...], Any]]) -> list[int]:
    """Of identities and moments: where the newest of each identity is, in the order of the identities."""
    found: dict[tuple[Any, ...], tuple[Any, int]] = {}
    for place, (key, moment) in enumerate(rows):
        if key not in found or moment > found[key][0]:
            found[key] = moment, place
    return [found[key][1] for key in sorted(found)]


def _packed_rows(path: Path, identity: Identity) -> list[Row]:
    """The rows of a file of many that differ from `identity` at most in having more repeats."""
    try:
        modified_ns = path.stat().st_mtime_ns
        index = _index(path, modified_ns)
    except OSError as error:
        raise unreadable(path, error) from error
    return [
        schema.to_row(_group(path, modified_ns, group).slice(position, 1))
        for repeats, group, position in index.get(replace(identity, repeats=0), ())
        if repeats >= identity.repeats
    ]


@lru_cache(maxsize=64)
def _index(path: Path, modified_ns: int) -> dict[Identity, list[tuple[int, int, int]]]:
    """Where rows are in a file of many, by identity without repeats: those, row group and position in it."""
    index: dict[Identity, list[tuple[int, int, int]]] = {}
    rows = load_table(path, identity.COLUMNS).to_pylist()
    group_rows = pq.read_metadata(path).row_group(0).num_rows if rows else 1
    for number, columns in enumerate(rows):
        place = columns["repeats"], *divmod(number, group_rows)
        index.setdefault(Identity(**columns | {"repeats": 0}), []).append(place)
    return index


@lru_cache(maxsize=4)
def _group(path: Path, modified_ns: int, group: int) -> pa.Table:
    """Kept, since who asks for one row asks for its neighbours next."""
    return load_table(path, group=group)


def _siblings(folder: Path, stem: str) -> list[tuple[int, Path]]:
    """Repeats and path of the rows that differ in nothing else."""
    pattern = re.compile(re.escape(stem) + r"(\d+)" + re.escape(_SUFFIX))
    try:
        matches = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return [(int(match[1]), path) for match, path in matches if match]


def _folder(artifacts: Path, sweep: str, cell: str) -> Path:
    return sweep_folder(artifacts, sweep).joinpath(*map(_checked, cell.split("/")))


def _name(identity: Identity) -> str:
    return _checked(f"{identity.stem}{identity.repeats}{_SUFFIX}")


def _checked(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise StorageError(
            f"{name!r} cannot name a file", "change that part of the sweep's or the cell's name"
        )
    return name
