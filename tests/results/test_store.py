from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlas.errors import StorageError
from dlas.results import store
from dlas.results.entries import Entry, latest
from dlas.results.identity import identify, row_id
from dlas.results.schema import SCHEMA, to_table
from dlas.values import Row

MakeRow = Callable[..., Row]
MakeEntry = Callable[..., Entry]
CELL = "cifar10/resnet18/dense/fp32/dense/gemm/scheduled/x86_avx"
QUICK = [12_000_000] * 5
IDENTITY_CHANGES = [
    {"cell": CELL.replace("gemm", "direct")},
    {"device": "77" * 32},
    {"runner": "docker"},
    {"threads": 1},
    {"emulated": True},
    {"replicate": 1},
    {"inputs_key": "ef" * 32},
]


def ids(rows: Iterable[Row | Entry]) -> list[str]:
    return sorted(row.id if isinstance(row, Entry) else row_id(vars(row)) for row in rows)


def read_ids(artifacts: Path, sweep: str = "smoke") -> list[str]:
    stored = store.read(artifacts, sweep)
    assert not stored.problems
    return ids(stored.rows)


def test_row_is_read_back_from_its_place(tmp_path: Path, make_row: MakeRow) -> None:
    row = make_row()
    path = store.write(tmp_path, row)
    assert path.relative_to(tmp_path) == Path(
        "results",
        "smoke",
        *CELL.split("/"),
        "3f2a3f2a3f2a3f2a-local-t2-real-p0-cdcdcdcdcdcdcdcd-n150.parquet",
    )
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    assert read_ids(tmp_path) == ids([row])
    assert store.find(tmp_path, "smoke", identify(row)) == row
    assert store.sweeps(tmp_path) == ["smoke"]
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert pq.read_schema(path).metadata[b"dlas.schema_version"] == b"8"


@pytest.mark.parametrize("change", IDENTITY_CHANGES, ids=lambda change: next(iter(change)))
def test_row_stands_for_no_other(tmp_path: Path, make_row: MakeRow, change: dict[str, object]) -> None:
    row, other = make_row(), make_row(**change)
    store.write(tmp_path, row)
    assert store.find(tmp_path, "smoke", identify(other)) is None
    store.write(tmp_path, other)
    assert store.find(tmp_path, "smoke", identify(other)) == other
    assert store.find(tmp_path, "smoke", identify(row)) == row


def test_row_of_another_sweep_is_not_found(tmp_path: Path, make_row: MakeRow) -> None:
    row = make_row()
    store.write(tmp_path, row)
    assert store.find(tmp_path, "cifar", identify(row)) is None
    assert store.read(tmp_path, "cifar") == store.Stored(())


def test_devices_that_begin_alike_have_their_own_files(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(device=f"hikey970-in-the-cupboard-{number}") for number in range(2)]
    paths = {store.write(tmp_path, row) for row in rows}
    assert len(paths) == 2
    assert [store.find(tmp_path, "smoke", identify(row)) for row in rows] == rows


def test_quick_row_never_satisfies_a_longer_run(tmp_path: Path, make_row: MakeRow) -> None:
    quick, full = make_row(samples=QUICK), make_row(minutes=1)
    store.write(tmp_path, quick)
    assert store.find(tmp_path, "smoke", identify(full)) is None
    assert store.find(tmp_path, "smoke", identify(quick)) == quick
    store.write(tmp_path, full)
    assert store.find(tmp_path, "smoke", identify(full)) == full
    assert store.find(tmp_path, "smoke", identify(quick)) == full
    assert len(store.read(tmp_path, "smoke").rows) == 2


@pytest.mark.parametrize("status", ["measured", "invalid", "emulated"])
def test_finished_row_is_found(tmp_path: Path, make_row: MakeRow, status: str) -> None:
    row = make_row(status=status)
    store.write(tmp_path, row)
    assert store.find(tmp_path, "smoke", identify(row)) == row


@pytest.mark.parametrize("status", ["failed", "wrong_output", "quarantined"])
def test_failure_is_tried_again_and_replaced(tmp_path: Path, make_row: MakeRow, status: str) -> None:
    failure, success = make_row(status=status), make_row(minutes=1)
    store.write(tmp_path, failure)
    assert read_ids(tmp_path) == ids([failure])
    assert store.find(tmp_path, "smoke", identify(success)) is None
    store.write(tmp_path, success)
    assert read_ids(tmp_path) == ids([success])


def test_one_damaged_file_hides_no_other(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(replicate=number) for number in range(4)]
    paths = [store.write(tmp_path, row) for row in rows]
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    paths[2].write_bytes(b"")
    (paths[0].parent / ".dlas-1-2-aa.tmp").write_bytes(b"half a row")
    stored = store.read(tmp_path, "smoke")
    assert ids(stored.rows) == ids([rows[0], rows[3]])
    assert len(stored.problems) == 2
    for path, problem in zip(paths[1:3], stored.problems, strict=True):
        assert str(path) in problem.cause
        assert "run the sweep again" in problem.next_step
    with pytest.raises(StorageError, match="is damaged"):
        store.find(tmp_path, "smoke", identify(rows[1]))


def test_no_flipped_bit_changes_a_row(tmp_path: Path, make_row: MakeRow) -> None:
    row = make_row()
    path = store.write(tmp_path, row)
    data = path.read_bytes()
    damaged = 0
    for position in range(0, len(data), 29):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            assert store.load(path) == row
        except StorageError:
            damaged += 1
    assert damaged > 50


def test_foreign_files_are_named(tmp_path: Path, make_row: MakeRow) -> None:
    table = to_table(make_row())
    path = store.write(tmp_path, make_row())
    pq.write_table(table.replace_schema_metadata({"dlas.schema_version": "999"}), path)
    pq.write_table(pa.table({"x": [1]}), path.with_name("x.parquet"))
    pq.write_table(table, path.with_name("copy.parquet"))
    stored = store.read(tmp_path, "smoke")
    assert stored.rows == ()
    newer, copy, foreign = sorted(map(str, stored.problems), key=lambda text: Path(text.split()[0]).name)
    assert "version 999, this dlas reads 2 to 8; read it with the dlas that wrote it" in newer
    assert "holds another row than its name says" in copy
    assert "not a row of dlas" in foreign


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb", "a\0b"])
def test_impossible_names_are_refused(tmp_path: Path, make_row: MakeRow, name: str) -> None:
    with pytest.raises(StorageError, match="cannot name a file"):
        store.write(tmp_path, dataclasses.replace(make_row(), sweep=name))
    if "/" not in name:
        with pytest.raises(StorageError, match="cannot name a file"):
            store.write(tmp_path, dataclasses.replace(make_row(), cell=CELL.replace("resnet18", name)))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_old_row_and_nothing_else(
    tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = make_row(status="failed")
    path = store.write(tmp_path, failure)

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"No space left on device; free some with `invoke clean`"):
        store.write(tmp_path, make_row())
    assert list(path.parent.iterdir()) == [path]
    assert store.load(path) == failure


def test_newest_code_is_the_latest(make_entry: MakeEntry) -> None:
    old = [make_entry(replicate=number, inputs_key="aa" * 32) for number in range(3)]
    new = make_entry(minutes=1)
    elsewhere = make_entry(minutes=-1, runner="docker", inputs_key="aa" * 32)
    assert ids(latest([new, *old, elsewhere])) == ids([new, elsewhere])


def test_replicates_stand_side_by_side(make_entry: MakeEntry) -> None:
    rows = [make_entry(replicate=number, minutes=number) for number in range(3)]
    rerun = make_entry(replicate=1, minutes=9, samples=[1] * 200)
    assert ids(latest([*rows, rerun])) == ids([rows[0], rerun, rows[2]])


def test_quick_look_neither_hides_nor_joins_a_publishable_row(make_entry: MakeEntry) -> None:
    full = make_entry()
    looks = [make_entry(minutes=1, replicate=number, samples=QUICK) for number in range(2)]
    assert ids(latest([full, *looks])) == ids([full])
    assert ids(latest(looks)) == ids(looks)
    newer_code = make_entry(minutes=2, samples=QUICK, inputs_key="ef" * 32)
    assert ids(latest([full, *looks, newer_code])) == ids([newer_code])


def test_failed_replicate_stays_beside_measured_ones(make_entry: MakeEntry) -> None:
    rows = [make_entry(), make_entry(replicate=1, status="failed")]
    assert ids(latest(rows)) == ids(rows)


def test_row_without_a_device_counts_until_there_is_a_newer_one(make_entry: MakeEntry) -> None:
    lost = make_entry(device="", status="failed", minutes=1)
    before, after = make_entry(), make_entry(minutes=2)
    assert ids(latest([before, lost])) == ids([before, lost])
    assert ids(latest([lost, after])) == ids([after])


def test_schema_names_the_identity(make_row: MakeRow) -> None:
    identity = identify(make_row())
    assert {field.name for field in dataclasses.fields(identity)} <= set(SCHEMA.names)
