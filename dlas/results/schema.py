"""The columns of the results: the fields of `values.Row`, as Arrow types."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from dlas.errors import StorageError
from dlas.values import Row

SCHEMA_VERSION = 7  # raise it with every change of Row
VERSION_KEY = b"dlas.schema_version"

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
    fields = []
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
        value = getattr(row, field.name)
        if value is None and not field.nullable:
            raise _misfit(row, f"{field.name} is None")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise _misfit(row, f"{field.name} has no time zone")
        try:
            columns.append(pa.array([value], field.type))
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError) as error:
            raise _misfit(row, f"{field.name}: {error}") from error
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def to_row(table: pa.Table) -> Row:
    """The row of a table of `to_table`. Raises StorageError when it is not one."""
    version = (table.schema.metadata or {}).get(VERSION_KEY)
    if version is None:
        raise StorageError("not a row of dlas", "move the file away")
    if version != str(SCHEMA_VERSION).encode():
        raise StorageError(
            f"its schema has version {version.decode(errors='replace')}, this dlas reads {SCHEMA_VERSION}",
            "read it with the dlas that wrote it, or move it away",
        )
    if not table.schema.equals(SCHEMA) or table.num_rows != 1:
        raise StorageError("its columns are not those of a row", "move the file away")
    (values,) = table.to_pylist(maps_as_pydicts="strict")
    return Row(**values)


def _misfit(row: Row, problem: str) -> StorageError:
    return StorageError(f"{row.cell}: this row cannot be stored: {problem}", "report this defect of dlas")
