from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlas.errors import StorageError
from dlas.results.identity import row_id
from dlas.results.schema import ADDED, SCHEMA, SCHEMA_VERSION, arrow_type, to_row, to_table
from dlas.values import Row
from tests.results.older import LATER, missing_in, older_table

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False)
WHEN = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
BY_HINT = {
    "int": INT64,
    "int | None": st.none() | INT64,
    "float": FLOAT,
    "float | None": st.none() | FLOAT,
    "bool": st.booleans(),
    "bool | None": st.none() | st.booleans(),
    "str": st.text(max_size=20),
    "list[int]": st.lists(INT64, max_size=5),
    "list[str]": st.lists(st.text(max_size=5), max_size=3),
    "dict[str, str]": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    "dict[str, float]": st.dictionaries(st.text(max_size=5), FLOAT, max_size=3),
    "datetime": WHEN,
}
ROWS = st.builds(
    Row,
    **{field.name: BY_HINT[str(field.type)] for field in dataclasses.fields(Row)}
    | {"schema_version": st.just(SCHEMA_VERSION)},
)


@given(row=ROWS)
@settings(deadline=None, max_examples=60)
def test_row_survives_a_table(row: Row) -> None:
    assert to_row(to_table(row)) == row


def test_every_field_is_a_column_of_its_type() -> None:
    assert SCHEMA.names == ["id", *(field.name for field in dataclasses.fields(Row))]
    assert SCHEMA.field("samples_ns").type == pa.list_(pa.int64())
    assert SCHEMA.field("kernels").type == pa.list_(pa.string())
    assert SCHEMA.field("versions").type == pa.map_(pa.string(), pa.string())
    assert SCHEMA.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert SCHEMA.field("emulated").type == pa.bool_()
    assert SCHEMA.field("max_error_over_scale").type == pa.float64()
    assert {field.name for field in SCHEMA if field.nullable} == {
        field.name for field in dataclasses.fields(Row) if "None" in str(field.type)
    }
    assert SCHEMA.metadata == {b"dlas.schema_version": str(SCHEMA_VERSION).encode()}


@pytest.mark.parametrize("hint", [bytes, int | str, tuple[int, ...], int | str | None])
def test_hint_without_a_column_type_is_refused(hint: object) -> None:
    with pytest.raises(TypeError, match="has no column type"):
        arrow_type(hint)


def test_nan_and_other_time_zones_survive(make_row: Callable[..., Row]) -> None:
    when = datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    row = to_row(to_table(make_row(max_error_over_scale=math.nan, started_at=when)))
    assert row.max_error_over_scale is not None
    assert math.isnan(row.max_error_over_scale)
    assert row.started_at == when
    assert row.started_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": None}, "target is None"),
        ({"samples_ns": None}, "samples_ns is None"),
        ({"started_at": datetime(2024, 5, 1)}, "started_at has no time zone"),
        ({"samples_ns": [2**63]}, "samples_ns: "),
        ({"threads": "two"}, "threads: "),
        ({"log": "\udc80"}, "log: "),
        ({"schema_version": SCHEMA_VERSION + 1}, "schema_version is "),
    ],
)
def test_what_does_not_fit_is_named(
    make_row: Callable[..., Row], changes: dict[str, object], named: str
) -> None:
    row = dataclasses.replace(make_row(), **changes)  # type: ignore[arg-type]
    with pytest.raises(StorageError) as caught:
        to_table(row)
    assert row.cell in str(caught.value)
    assert named in str(caught.value)


def test_other_tables_are_refused(make_row: Callable[..., Row]) -> None:
    table = to_table(make_row())
    with pytest.raises(StorageError, match="not a row of dlas"):
        to_row(table.replace_schema_metadata(None))
    with pytest.raises(StorageError, match=f"version 999, this dlas reads 2 to {SCHEMA_VERSION}"):
        to_row(table.replace_schema_metadata({"dlas.schema_version": "999"}))
    with pytest.raises(StorageError, match="columns"):
        to_row(table.drop_columns("threads"))
    with pytest.raises(StorageError, match="columns"):
        to_row(table.append_column("more", pa.array([1])))
    with pytest.raises(StorageError, match="columns"):
        to_row(table.set_column(table.schema.get_field_index("threads"), "threads", pa.array(["two"])))
    with pytest.raises(StorageError, match="columns"):
        to_row(table.set_column(table.schema.get_field_index("threads"), "threads", pa.nulls(1, pa.int64())))
    with pytest.raises(StorageError, match="2 rows, not one"):
        to_row(pa.concat_tables([table, table]))
    with pytest.raises(StorageError, match="another id"):
        to_row(table.set_column(0, SCHEMA.field(0), pa.array(["0" * 16])))


@pytest.mark.parametrize("version", LATER)
def test_older_rows_are_read(make_row: Callable[..., Row], version: int) -> None:
    row, missing = make_row(schema_version=SCHEMA_VERSION), missing_in(version)
    found = to_row(older_table(row, version))
    assert row_id(vars(found)) == row_id(vars(row))
    kept = {name: value for name, value in vars(row).items() if name not in missing}
    filled = {name: ADDED[name] for name in missing if name != "id"}
    assert vars(found) == kept | filled
    # What may have no value then has none, and what must have one has the one that was true.
    assert all(filled[name] is not None or SCHEMA.field(name).nullable for name in filled)


def test_an_older_row_must_have_what_its_version_had(make_row: Callable[..., Row]) -> None:
    table = to_table(make_row()).drop_columns(["id", "threads"])
    with pytest.raises(StorageError, match="columns"):
        to_row(table.replace_schema_metadata({"dlas.schema_version": "7"}))
    with pytest.raises(StorageError, match="version 1, "):
        to_row(table.replace_schema_metadata({"dlas.schema_version": "1"}))
