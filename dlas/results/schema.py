"""The columns of the results: the fields of `values.Row` as Arrow types, and the id in front of them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from dlas.errors import StorageError
from dlas.results.identity import ROW_ID_COLUMNS, row_id
from dlas.values import Row

SCHEMA_VERSION = 8  # raise it with every change of Row, and give a new column its value in `ADDED`
VERSION_KEY = b"dlas.schema_version"
ID = ROW_ID_COLUMNS[0]
OLDEST_VERSION = 2  # those of the first had no accuracy, and one number for what building took
# Columns that came later, and what was true of the rows before them; None where nobody knows.
ADDED: Mapping[str, Any] = {
    # 3: compression and integers
    **dict.fromkeys(("level_fraction", "weight_sparsity_fraction", "mac_sparsity_fraction")),
    **dict.fromkeys(("weight_bytes", "dense_weight_bytes", "float32_error_over_scale", "ops_integer")),
    **dict.fromkeys(("arithmetic", "finetuning", "calibration"), ""),
    "oracle": "pytorch",
    # 4: sparse operators
    "ops_sparse": None,
    # 5: images for boards
    "image_base": "",
    "stand_in": False,
    # 6: searches
    "tuning_trials": 0,
    "tuning_seconds": 0.0,
    "tuning_sha256": "",
    "tuned_fraction": None,
    # 7: GPUs
    "gpu": "",
    "timer": "wall",
    # 8: what rows are compared by
    "misclassified": [],
    "commit": "",
}

_SCALARS: Mapping[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def arrow_type(hint: Any) -> tuple[pa.DataType, bool]:
    """The Arrow type of a type hint, and whether it may be null. Raises TypeError for any other hint.

    >>> arrow_type(list[int] | None)
    (ListType(list<item: int64>), True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint], False
    if origin in (types.UnionType, Union) and len(arguments) == 2 and type(None) in arguments:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return arrow_type(inner)[0], True
    if origin is list:
        return pa.list_(arrow_type(arguments[0])[0]), False
    if origin is dict:
        return pa.map_(*(arrow_type(argument)[0] for argument in arguments)), False
    raise TypeError(f"{hint} has no column type")


def _schema() -> pa.Schema:
    hints = get_type_hints(Row)
    fields = [pa.field(ID, pa.string(), nullable=False)]
    for field in dataclasses.fields(Row):
        kind, nullable = arrow_type(hints[field.name])
        fields.append(pa.field(field.name, kind, nullable=nullable))
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION)})


SCHEMA = _schema()


def to_table(row: Row) -> pa.Table:
    """A table of one line. Raises StorageError when a value is not what its column holds."""
    if row.schema_version != SCHEMA_VERSION:
        raise _misfit(row, f"schema_version is {row.schema_version}, not {SCHEMA_VERSION}")
    columns = []
    for field in SCHEMA:
        value = getattr(row, field.name) if field.name != ID else ""
        if value is None and not field.nullable:
            raise _misfit(row, f"{field.name} is None")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise _misfit(row, f"{field.name} has no time zone")
        try:
            columns.append(pa.array([value], field.type))
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError) as error:
            raise _misfit(row, f"{field.name}: {error}") from error
    columns[SCHEMA.get_field_index(ID)] = pa.array([row_id(vars(row))])
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def to_row(table: pa.Table) -> Row:
    """The row of a table of `to_table`, also of an older version. Raises StorageError for any other."""
    table = upgrade(table)
    if table.num_rows != 1:
        raise StorageError(f"it holds {table.num_rows} rows, not one", "move the file away")
    check_ids(table)
    (values,) = table.drop_columns(ID).to_pylist(maps_as_pydicts="strict")
    return Row(**values)


def version_of(schema: pa.Schema) -> int:
    """The version in which a file was written. Raises StorageError for one that this dlas cannot read."""
    told = (schema.metadata or {}).get(VERSION_KEY)
    if told is None:
        raise StorageError("not a row of dlas", "move the file away")
    version = int(told) if told.isdigit() else SCHEMA_VERSION + 1
    if not OLDEST_VERSION <= version <= SCHEMA_VERSION:
        known = f"this dlas reads {OLDEST_VERSION} to {SCHEMA_VERSION}"
        words = told.decode(errors="replace")
        raise StorageError(f"its schema has version {words}, {known}", "read it with the dlas that wrote it")
    return version


def lacking(stored: pa.Schema) -> list[str]:
    """The columns that a file with this schema is too old to have. Raises StorageError as `upgrade`."""
    later = {*ADDED, ID} if version_of(stored) < SCHEMA_VERSION else set()
    missing = [name for name in SCHEMA.names if name not in stored.names]
    if not later.issuperset(missing):
        raise _foreign()
    return missing


def stored_columns(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """What is to be read of a file with this schema, so that `upgrade` can make these columns of it.

    Raises StorageError for a file that is not of rows, or of another version than this dlas reads.
    """
    version_of(schema)
    needed = {*columns, *(ROW_ID_COLUMNS if ID in columns and ID not in schema.names else ())}
    if set(columns) == set(SCHEMA.names):
        needed |= set(schema.names)  # also those that no row has, which `upgrade` finds
    return [name for name in schema.names if name in needed]


def upgrade(table: pa.Table, columns: Sequence[str] = ()) -> pa.Table:
    """These columns as this version has them, all of them unless named.

    What an older version lacks is filled in from `ADDED`, and the id computed. Raises StorageError for a
    table that is not of rows.
    """
    columns, version = columns or SCHEMA.names, version_of(table.schema)
    is_older = version < SCHEMA_VERSION
    made = []
    for name in columns:
        field = SCHEMA.field(name)
        if name == "schema_version" and is_older:
            column = pa.chunked_array([pa.array([SCHEMA_VERSION] * table.num_rows, field.type)])
        elif name in table.schema.names:
            column = table.column(name)
        elif is_older and name in ADDED:
            column = pa.chunked_array([pa.array([ADDED[name]] * table.num_rows, field.type)])
        elif is_older and name == ID and set(ROW_ID_COLUMNS[1:]) <= set(table.schema.names):
            column = pa.chunked_array([pa.array(row_ids(table), field.type)])
        else:
            raise _foreign()
        if column.type != field.type or (column.null_count and not field.nullable):
            raise _foreign()
        made.append(column)
    if len(columns) == len(SCHEMA) and not set(table.schema.names) <= set(SCHEMA.names):
        raise _foreign()
    return pa.Table.from_arrays(made, schema=of_columns(columns))


def row_ids(table: pa.Table) -> list[str]:
    """What the ids of these rows must be."""
    return [row_id(columns) for columns in table.select(ROW_ID_COLUMNS[1:]).to_pylist()]


def check_ids(table: pa.Table) -> None:
    """Raises StorageError when a row has another id than its columns make."""
    if table.column(ID).to_pylist() != row_ids(table):
        raise StorageError("a row has another id than its columns make", "move the file away")


def of_columns(names: Sequence[str]) -> pa.Schema:
    """The schema of these columns alone."""
    return pa.schema([SCHEMA.field(name) for name in names], metadata=SCHEMA.metadata)


def _foreign() -> StorageError:
    return StorageError("its columns are not those of a row", "move the file away")


def _misfit(row: Row, problem: str) -> StorageError:
    return StorageError(f"{row.cell}: this row cannot be stored: {problem}", "report this defect of dlas")
