"""The rows of one or more results folders as one Arrow dataset: what notebooks and other tools start from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from dlas.errors import StorageError, UsageError
from dlas.results import schema, store
from dlas.results.identity import ROW_ID_COLUMNS


def open_results(*folders: str | Path, sweep: str = "") -> ds.Dataset:
    """All rows in these folders, of every age and status, lazily: filters and columns are read as asked for.

    folders: artifacts folders, or their `results`; of several machines, say. sweep: only its rows. Columns
    that a file is too old to have are what was true of all rows then (`schema.ADDED`), lists null;
    `schema_version` tells in which version a row was written. Nothing is left out: rows of older code stand
    beside the newest, and a row that is in two folders is there twice. Raises UsageError where there is no
    row, StorageError for a file that is no row's.
    """
    paths = list(dict.fromkeys(path for folder in folders for path in _paths(Path(folder), sweep)))
    if not paths:
        names = ", ".join(map(str, folders)) or "no folder"
        what = f"sweep {sweep!r}" if sweep else "any sweep"
        raise UsageError(f"no rows of {what} in {names}", "name artifacts folders, or their results folders")
    with ThreadPoolExecutor() as pool:
        known = list(pool.map(_known, paths))
    return ds.FileSystemDataset.from_paths(
        [str(path) for path in paths],
        schema=pa.schema([field.with_nullable(True) for field in schema.SCHEMA]),
        format=ds.ParquetFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=known,
    )


def _paths(folder: Path, sweep: str) -> list[Path]:
    artifacts = folder.parent if folder.name == store.FOLDER else folder
    found = []
    for name in [sweep] if sweep else store.sweeps(artifacts):
        paths, problems = store.files(artifacts, name)
        if problems:
            raise problems[0]
        found += paths
    return found


def _known(path: Path) -> ds.Expression:
    """What is true of all rows of a file and does not stand in it: Arrow fills columns in from that.

    Lists are not among it, which Arrow cannot filter by, nor what nobody knows.
    """
    try:
        stored = pq.read_schema(path)
        values = {name: schema.ADDED[name] for name in schema.lacking(stored) if name != schema.ID}
        if schema.ID not in stored.names:
            (values[schema.ID],) = schema.row_ids(pq.read_table(path, columns=list(ROW_ID_COLUMNS[1:])))
    except StorageError as error:
        raise StorageError(f"{path}: {error.cause}", error.next_step) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"{path} is damaged: {reason}", "`invoke results verify` reads all files"
        ) from error
    known = ds.scalar(True)
    for name, value in values.items():
        if value is not None and not isinstance(value, list):
            known &= ds.field(name) == pa.scalar(value, schema.SCHEMA.field(name).type)
    return known
