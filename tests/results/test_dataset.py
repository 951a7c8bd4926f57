from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dlas.errors import StorageError, UsageError
from dlas.results import collection, schema, store
from dlas.results.dataset import open_results
from dlas.results.identity import row_id
from dlas.results.schema import ADDED, SCHEMA, to_table
from dlas.values import Row
from tests.results.older import LATER, missing_in, older_table, write_older

MakeRow = Callable[..., Row]
DIRECT = "cifar10/resnet18/dense/fp32/dense/direct/scheduled/x86_avx"


def lines_of(dataset: ds.Dataset, **how: Any) -> list[dict[str, Any]]:
    """In the order of their replicates, which stand for their ages here."""
    return sorted(
        dataset.to_table(**how).to_pylist(maps_as_pydicts="strict"), key=lambda line: line["replicate"]
    )


def line_of(row: Row) -> dict[str, Any]:
    return {"id": row_id(vars(row)), **vars(row)}


def test_rows_of_several_machines_loose_and_packed_are_one_dataset(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(replicate=number) for number in range(4)]
    for row, artifacts in zip(rows, ("ours", "ours", "theirs", "theirs"), strict=True):
        store.write(tmp_path / artifacts, row)
    collection.compact(tmp_path / "ours", "smoke")
    dataset = open_results(tmp_path / "ours", str(tmp_path / "theirs" / "results"))
    assert lines_of(dataset) == list(map(line_of, rows))
    assert dataset.schema == pa.schema([field.with_nullable(True) for field in SCHEMA])
    twice = open_results(tmp_path / "ours", tmp_path / "ours", tmp_path / "ours" / "results")
    assert twice.count_rows() == 2


def test_files_are_read_as_asked_for(tmp_path: Path, make_row: MakeRow) -> None:
    gemm, direct = make_row(), make_row(cell=DIRECT, replicate=1)
    paths = [store.write(tmp_path, row) for row in (gemm, direct)]
    dataset = open_results(tmp_path)
    assert [Path(file) for file in dataset.files] == sorted(paths)
    asked = ds.field("algorithm") == "gemm"
    found = dataset.to_table(filter=asked, columns=["id", "samples_ns"])
    assert found.column_names == ["id", "samples_ns"]
    assert found.to_pylist() == [{"id": row_id(vars(gemm)), "samples_ns": gemm.samples_ns}]
    assert dataset.count_rows(filter=ds.field("algorithm") == "winograd") == 0
    assert dataset.count_rows(filter=ds.field("threads") > 1) == 2
    paths[1].unlink()
    paths[0].write_bytes(b"not read before")
    with pytest.raises((pa.ArrowException, OSError)):
        dataset.to_table()


def test_one_sweep_is_asked_for(tmp_path: Path, make_row: MakeRow) -> None:
    smoke, cifar = make_row(), make_row(sweep="cifar", replicate=1)
    store.write(tmp_path / "ours", smoke)
    store.write(tmp_path / "theirs", cifar)
    folders = tmp_path / "ours", tmp_path / "theirs"
    assert lines_of(open_results(*folders)) == [line_of(smoke), line_of(cifar)]
    assert lines_of(open_results(*folders, sweep="cifar")) == [line_of(cifar)]
    with pytest.raises(UsageError, match=r"no rows of sweep 'cifra' in .*ours, .*theirs; name artifacts"):
        open_results(*folders, sweep="cifra")


def test_rows_of_every_version_have_all_columns(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(replicate=version) for version in LATER]
    for row in rows:
        write_older(tmp_path, row, row.replicate)
    newest = make_row(replicate=8, top1_fraction=0.5, top1_n=2, misclassified=[1])
    store.write(tmp_path, newest)
    found = lines_of(open_results(tmp_path))
    read = {row.replicate: row for row in store.read(tmp_path, "smoke").rows}
    for row, line in zip(rows, found, strict=False):
        filled = {name: ADDED[name] for name in missing_in(row.replicate) if name != "id"}
        filled |= {"misclassified": None, "schema_version": row.replicate}
        assert line == line_of(row) | filled
        assert line["id"] == read[row.replicate].id
    assert found[-1] == line_of(newest)


@pytest.mark.parametrize(
    ("name", "value", "versions"),
    [
        ("timer", "wall", [2, 3, 4, 5, 6, 7, 8]),
        ("timer", "events", [9]),
        ("oracle", "pytorch", [2, 3, 4, 5, 6, 7, 8, 9]),
        ("commit", "", [2, 3, 4, 5, 6, 7, 8]),
        ("tuning_trials", 0, [2, 3, 4, 5, 6, 7, 8]),
        ("stand_in", False, [2, 3, 4, 5, 6, 7, 8, 9]),
        ("weight_bytes", 0, [3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_filled_columns_can_be_filtered_by(
    tmp_path: Path, make_row: MakeRow, name: str, value: object, versions: list[int]
) -> None:
    for version in LATER:
        write_older(tmp_path, make_row(replicate=version), version)
    store.write(tmp_path, make_row(replicate=8))
    store.write(tmp_path, make_row(replicate=9, timer="events", commit="ab", tuning_trials=5))
    dataset = open_results(tmp_path)
    found = dataset.to_table(filter=ds.field(name) == value, columns=["replicate"])
    assert sorted(found.column("replicate").to_pylist()) == versions
    others = dataset.count_rows(filter=~(ds.field(name) == value))
    unknown = dataset.count_rows(filter=ds.field(name).is_null())
    assert len(versions) + others + unknown == 8
    assert unknown == (name == "weight_bytes")


def test_packed_rows_have_the_ids_that_they_had(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(replicate=version) for version in LATER]
    for row in rows:
        write_older(tmp_path, row, row.replicate)
    before = [line["id"] for line in lines_of(open_results(tmp_path))]
    collection.compact(tmp_path, "smoke")
    assert [line["id"] for line in lines_of(open_results(tmp_path))] == before


def test_folders_without_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no rows of any sweep in {tmp_path}; name artifacts folders"):
        open_results(tmp_path)
    with pytest.raises(UsageError, match="no rows of any sweep in no folder"):
        open_results()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda row: to_table(row).replace_schema_metadata(None), "not a row of dlas; move the file away"),
        (
            lambda row: to_table(row).replace_schema_metadata({schema.VERSION_KEY: b"99"}),
            "its schema has version 99",
        ),
        (lambda row: to_table(row).drop_columns("threads"), "its columns are not those of a row"),
        (lambda row: older_table(row, 5).drop_columns("threads"), "its columns are not those of a row"),
        (lambda row: to_table(row).drop_columns("gpu"), "its columns are not those of a row"),
        (lambda row: pa.concat_tables([older_table(row, 7)] * 2), "is damaged: "),
        (lambda row: older_table(row, 7).slice(0, 0), "is damaged: "),
    ],
)
def test_files_of_something_else_are_named(
    tmp_path: Path, make_row: MakeRow, make: Callable[[Row], pa.Table], words: str
) -> None:
    store.write(tmp_path, make_row())
    path = store.write(tmp_path, make_row(replicate=1))
    pq.write_table(make(make_row(replicate=1)), path)
    expect_error(tmp_path, path, words)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100])
def test_damaged_files_are_named(tmp_path: Path, make_row: MakeRow, data: bytes) -> None:
    path = store.write(tmp_path, make_row())
    path.write_bytes(data)
    expect_error(tmp_path, path, "is damaged: ")


def expect_error(artifacts: Path, path: Path, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_results(artifacts)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_older_code_stand_beside_the_newest(tmp_path: Path, make_row: MakeRow) -> None:
    old = make_row(inputs_key="aa" * 32)
    for row in (old, dataclasses.replace(old, inputs_key="bb" * 32, replicate=1)):
        store.write(tmp_path, row)
    assert open_results(tmp_path).count_rows() == 2
