"""Rows on disk: `artifacts/results/<sweep>/<cell id>/<identity>.parquet`, one file per row."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dlas.cache import atomic_write, digest
from dlas.errors import StorageError
from dlas.results.schema import to_row, to_table
from dlas.values import REPEATS, Row

FOLDER = "results"
# The others are tried again by the next run.
FINAL_STATUSES = ("measured", "invalid", "emulated")

_SUFFIX = ".parquet"
_HASH = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True)
class Identity:
    """What makes two rows the same row: the cell, and all that its samples depend on.

    device is the fingerprint; inputs_key hashes everything the row is made from (code, weights,
    target, versions); repeats is how many samples were asked for, whatever came of it.
    """

    cell: str
    device: str
    runner: str
    threads: int
    emulated: bool
    replicate: int
    inputs_key: str
    repeats: int = REPEATS

    @property
    def stem(self) -> str:
        """The file name up to the repeats: rows that differ only in those lie side by side."""
        place = "emulated" if self.emulated else "real"
        return (
            f"{_short(self.device)}-{self.runner}-t{self.threads}-{place}"
            f"-p{self.replicate}-{_short(self.inputs_key)}-n"
        )


@dataclass(frozen=True)
class Stored:
    """The rows of a sweep, and one error for each file that could not be read."""

    rows: tuple[Row, ...]
    problems: tuple[StorageError, ...] = ()


def identify(row: Row) -> Identity:
    return Identity(**{field.name: getattr(row, field.name) for field in fields(Identity)})


def write(artifacts: Path, row: Row) -> Path:
    """Store a row, in place of an older one of the same identity. Raises StorageError."""
    path = _folder(artifacts, row.sweep, row.cell) / _name(identify(row))
    buffer = io.BytesIO()
    pq.write_table(
        to_table(row),
        buffer,
        compression="zstd",
        write_page_checksum=True,
        # Of no use for one line, and twice the bytes and the time.
        use_dictionary=False,
        write_statistics=False,
    )
    atomic_write(path, buffer.getvalue())
    return path


def find(artifacts: Path, sweep: str, identity: Identity) -> Row | None:
    """The finished row that makes measuring `identity` needless, or None.

    A row of more repeats will do, one of fewer never. Raises StorageError for a damaged file.
    """
    folder = _folder(artifacts, sweep, identity.cell)
    for repeats, path in sorted(_siblings(folder, identity.stem), reverse=True):
        if repeats < identity.repeats:
            break
        row = load(path)
        if row.status in FINAL_STATUSES:
            return row
    return None


def read(artifacts: Path, sweep: str) -> Stored:
    """All rows of a sweep, of every age, ordered by cell and file name.

    One file that is damaged, or of another version, hides no other row: it becomes a problem.
    Temporary files are not seen.
    """
    paths, problems = _files(_sweep_folder(artifacts, sweep))
    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(_try_load, paths))
    problems += [item for item in loaded if isinstance(item, StorageError)]
    return Stored(tuple(item for item in loaded if isinstance(item, Row)), tuple(problems))


def sweeps(artifacts: Path) -> list[str]:
    """The names of the sweeps that have results."""
    folder = artifacts / FOLDER
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def load(path: Path) -> Row:
    """Read one file. Raises StorageError that names it when it is damaged or is not where it belongs."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        row = to_row(file.read(use_threads=False))
    except StorageError as error:
        raise StorageError(f"{path}: {error.cause}", error.next_step) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"{path} is damaged: {reason}", "delete it and run the sweep again") from error
    # A renamed copy would count as one more process.
    if not path.as_posix().endswith(f"/{row.cell}/{_name(identify(row))}"):
        raise StorageError(f"{path} holds another row than its name says", "delete it, or move it back")
    return row


def latest(rows: Iterable[Row]) -> list[Row]:
    """The rows that are true today: of each place the newest code only, of each replicate one row.

    A place is a cell on a device with a runner, a number of threads, emulated or not; its newest row
    says which inputs_key counts. Of several rows of one replicate the newest counts, but a quick
    look hides no publishable row and joins none. A row that reached no device (its `device` is empty)
    counts until there is a newer one of its cell and replicate.
    """
    places: dict[tuple[object, ...], list[Row]] = {}
    newest: dict[tuple[str, int], datetime] = {}
    for row in rows:
        places.setdefault(place_of(row), []).append(row)
        attempt = row.cell, row.replicate
        newest[attempt] = max(row.started_at, newest.get(attempt, row.started_at))
    current = [row for group in places.values() for row in _current(group)]
    return [row for row in current if row.device or row.started_at == newest[row.cell, row.replicate]]


def _current(rows: list[Row]) -> list[Row]:
    """What `latest` keeps of the rows of one place."""
    newest_first = sorted(rows, key=lambda row: row.started_at, reverse=True)
    chosen: dict[int, Row] = {}
    for row in newest_first:
        if row.inputs_key != newest_first[0].inputs_key:
            continue
        known = chosen.setdefault(row.replicate, row)
        if row.publishable and not known.publishable:
            chosen[row.replicate] = row
    kept = [chosen[replicate] for replicate in sorted(chosen)]
    if any(row.publishable for row in kept):
        kept = [row for row in kept if row.publishable or row.status != "measured"]
    return kept


def place_of(row: Row) -> tuple[str, str, str, int, bool]:
    """What must be equal for rows to be replicates of each other, if their inputs_key is."""
    return row.cell, row.device, row.runner, row.threads, row.emulated


def _try_load(path: Path) -> Row | StorageError:
    try:
        return load(path)
    except StorageError as error:
        return error


def _files(folder: Path) -> tuple[list[Path], list[StorageError]]:
    problems: list[StorageError] = []
    if not folder.is_dir():
        return [], problems
    walk = os.walk(folder, onerror=lambda error: problems.append(_unreadable(Path(error.filename), error)))
    paths = [Path(parent, name) for parent, _, names in walk for name in names]
    return sorted(path for path in paths if path.suffix == _SUFFIX), problems


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be read: {error.strerror}", "check its permissions and the disk")


def _siblings(folder: Path, stem: str) -> list[tuple[int, Path]]:
    """Repeats and path of the rows that differ in nothing else."""
    pattern = re.compile(re.escape(stem) + r"(\d+)" + re.escape(_SUFFIX))
    try:
        matches = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return [(int(match[1]), path) for match, path in matches if match]


def _folder(artifacts: Path, sweep: str, cell: str) -> Path:
    return _sweep_folder(artifacts, sweep).joinpath(*map(_checked, cell.split("/")))


def _sweep_folder(artifacts: Path, sweep: str) -> Path:
    return artifacts / FOLDER / _checked(sweep)


def _name(identity: Identity) -> str:
    return _checked(f"{identity.stem}{identity.repeats}{_SUFFIX}")


def _checked(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise StorageError(
            f"{name!r} cannot name a file", "change that part of the sweep's or the cell's name"
        )
    return name


def _short(key: str) -> str:
    """Enough of a hash to tell it apart; what is no hash becomes one, so that no two names share a start."""
    return key[:16] if _HASH.fullmatch(key) else digest(key)[:16]
