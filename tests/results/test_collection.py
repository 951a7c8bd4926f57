from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlas.cache import remove_leftovers
from dlas.errors import StorageError, UsageError
from dlas.results import collection, entries, store
from dlas.results.identity import identify, row_id
from dlas.results.schema import ADDED, SCHEMA, to_row, to_table
from dlas.values import Row
from tests.results.older import LATER, missing_in, write_older

MakeRow = Callable[..., Row]
DIRECT = "cifar10/resnet18/dense/fp32/dense/direct/scheduled/x86_avx"
HERE, THERE = "3f2a" * 16, "77" * 32


def content(artifacts: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(artifacts)): path.read_bytes() for path in artifacts.rglob("*") if path.is_file()
    }


def write_all(artifacts: Path, rows: Sequence[Row]) -> list[Path]:
    return [store.write(artifacts, row) for row in rows]


def ids_of(rows: Sequence[Row]) -> list[str]:
    return sorted(row_id(vars(row)) for row in rows)


def read_ids(artifacts: Path, sweep: str = "smoke") -> list[str]:
    stored = store.read(artifacts, sweep)
    assert not stored.problems
    return sorted(row.id for row in stored.rows)


def packed_rows(path: Path) -> list[Row]:
    table = store.load_table(path)
    return [to_row(table.slice(number, 1)) for number in range(table.num_rows)]


def flip(path: Path) -> None:
    """One bit in the middle of the samples of a file: no footer, no header of a page."""
    data = bytearray(path.read_bytes())
    chunk = next(
        column
        for column in map(pq.read_metadata(path).row_group(0).column, range(SCHEMA.names.index("warmup_ns")))
        if column.path_in_schema.startswith("samples_ns")
    )
    data[chunk.data_page_offset + chunk.total_compressed_size - 4] ^= 1
    path.write_bytes(data)


@pytest.fixture
def rows(make_row: MakeRow) -> list[Row]:
    """Five of two cells: replicates, another device, a failure, a quick look."""
    return [
        make_row(),
        make_row(replicate=1, minutes=1),
        make_row(device=THERE, minutes=2),
        make_row(cell=DIRECT, status="failed", reason='out of "memory",\nélan', minutes=3),
        make_row(samples=[5, 6, 7], minutes=4),
    ]


def test_packed_rows_are_read_and_found_as_before(tmp_path: Path, rows: list[Row]) -> None:
    write_all(tmp_path, rows)
    loose = store.read(tmp_path, "smoke").rows
    said = collection.compact(tmp_path, "smoke")
    (packed,) = store.packed_files(tmp_path, "smoke")
    assert list(content(tmp_path)) == [str(packed.relative_to(tmp_path))]
    assert said == f"smoke: 5 rows of 5 files in {packed}"
    assert ids_of(packed_rows(packed)) == ids_of(rows)
    assert {row_id(vars(row)): row for row in packed_rows(packed)} == {row_id(vars(row)): row for row in rows}
    for one, other in zip(loose, store.read(tmp_path, "smoke").rows, strict=True):
        assert list(map(repr, one)) == list(map(repr, other))
    full, replicate, elsewhere, failed, quick = rows
    for row in (full, replicate, elsewhere):
        assert store.find(tmp_path, "smoke", identify(row)) == row
    assert store.find(tmp_path, "smoke", identify(quick)) == full
    assert store.find(tmp_path, "smoke", identify(failed)) is None
    assert store.find(tmp_path, "smoke", identify(dataclasses.replace(full, inputs_key="ee" * 32))) is None
    assert store.find(tmp_path, "smoke", identify(dataclasses.replace(full, repeats=999))) is None


def test_rows_are_found_in_every_group(
    tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "ROWS_IN_A_GROUP", 3)
    rows = [make_row(replicate=number, samples=[number + 1]) for number in range(8)]
    write_all(tmp_path, rows)
    collection.compact(tmp_path, "smoke")
    (packed,) = store.packed_files(tmp_path, "smoke")
    assert pq.read_metadata(packed).num_row_groups == 3
    assert [store.find(tmp_path, "smoke", identify(row)) for row in rows] == rows
    assert read_ids(tmp_path) == ids_of(rows)


def test_devices_that_begin_alike_are_told_apart(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(device=f"{'ab' * 24}{number:016x}") for number in range(2)]
    for row in rows:
        store.write(tmp_path, row)
        collection.compact(tmp_path, "smoke")
    assert [store.find(tmp_path, "smoke", identify(row)) for row in rows] == rows


def test_newer_loose_row_wins_over_a_packed_one(tmp_path: Path, rows: list[Row]) -> None:
    write_all(tmp_path, rows)
    collection.compact(tmp_path, "smoke")
    newer = dataclasses.replace(rows[0], started_at=rows[4].started_at, log="again")
    store.write(tmp_path, newer)
    assert store.find(tmp_path, "smoke", identify(newer)) == newer
    assert read_ids(tmp_path) == ids_of([newer, *rows[1:]])
    collection.compact(tmp_path, "smoke")
    assert len(content(tmp_path)) == 1
    assert store.find(tmp_path, "smoke", identify(newer)) == newer
    assert read_ids(tmp_path) == ids_of([newer, *rows[1:]])


def test_older_loose_row_loses_to_a_packed_one(tmp_path: Path, make_row: MakeRow) -> None:
    older, newer = make_row(), make_row(minutes=1)
    store.write(tmp_path, newer)
    collection.compact(tmp_path, "smoke")
    store.write(tmp_path, older)
    assert store.find(tmp_path, "smoke", identify(older)) == newer
    assert read_ids(tmp_path) == ids_of([newer])


@pytest.mark.parametrize("is_packed_newer", [True, False])
def test_a_row_that_was_found_wrong_since_is_measured_again(
    tmp_path: Path, make_row: MakeRow, is_packed_newer: bool
) -> None:
    good, wrong = make_row(), make_row(minutes=1, status="wrong_output", samples=[12_000_000] * 150)
    store.write(tmp_path, wrong if is_packed_newer else good)
    collection.compact(tmp_path, "smoke")
    store.write(tmp_path, good if is_packed_newer else wrong)
    assert identify(good) == identify(wrong)
    assert store.find(tmp_path, "smoke", identify(good)) is None
    assert read_ids(tmp_path) == ids_of([wrong])


def test_shorter_row_does_not_hide_a_longer_one_that_is_packed(tmp_path: Path, make_row: MakeRow) -> None:
    full, quick = make_row(), make_row(minutes=1, samples=[1, 2, 3])
    store.write(tmp_path, full)
    collection.compact(tmp_path, "smoke")
    store.write(tmp_path, quick)
    assert store.find(tmp_path, "smoke", identify(quick)) == full
    assert read_ids(tmp_path) == ids_of([full, quick])


def test_crash_before_the_loose_files_are_removed_counts_nothing_twice(
    tmp_path: Path, rows: list[Row]
) -> None:
    write_all(tmp_path, rows)
    loose = content(tmp_path)
    collection.compact(tmp_path, "smoke")
    packed = content(tmp_path)
    for name, data in loose.items():
        (tmp_path / name).write_bytes(data)
    assert read_ids(tmp_path) == ids_of(rows)
    assert store.find(tmp_path, "smoke", identify(rows[1])) == rows[1]
    lines = list(collection.verify(tmp_path, ["smoke"]))
    assert len(lines) == 2
    assert lines[0].startswith("smoke: 5 rows stored twice, as row ")
    assert lines[0].endswith("; `invoke results compact`")
    assert lines[1] == "smoke: 10 rows in 6 files, 0 faults"
    collection.compact(tmp_path, "smoke")
    assert content(tmp_path) == packed


def test_compact_again_changes_nothing(tmp_path: Path, rows: list[Row]) -> None:
    write_all(tmp_path, rows)
    collection.compact(tmp_path, "smoke")
    (packed,) = store.packed_files(tmp_path, "smoke")
    before = packed.stat(), packed.read_bytes()
    said = collection.compact(tmp_path, "smoke")
    assert (packed.stat().st_ino, packed.read_bytes()) == (before[0].st_ino, before[1])
    assert said == f"smoke: 5 rows of 1 file in {packed}"


def test_compact_makes_nothing_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "results" / "smoke" / "cifar10").mkdir(parents=True)
    assert collection.compact(tmp_path, "smoke") == "smoke: no rows"
    assert content(tmp_path) == {}


@pytest.mark.parametrize("is_packed", [False, True])
def test_compact_changes_nothing_beside_a_damaged_file(
    tmp_path: Path, rows: list[Row], is_packed: bool
) -> None:
    write_all(tmp_path, rows[:3])
    if is_packed:
        collection.compact(tmp_path, "smoke")
    damaged = next(path for path in tmp_path.rglob("*.parquet"))
    flip(damaged)
    write_all(tmp_path, rows[3:])
    before = content(tmp_path)
    with pytest.raises(StorageError) as caught:
        collection.compact(tmp_path, "smoke")
    assert str(caught.value).startswith(f"{damaged} is damaged: ")
    assert "\n" not in str(caught.value)
    assert content(tmp_path) == before
    (problem,) = store.read(tmp_path, "smoke").problems
    assert str(problem) == str(caught.value)
    assert len(store.read(tmp_path, "smoke").rows) == (2 if is_packed else 4)


def test_row_measured_anew_while_packing_is_kept(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, rows)
    again = dataclasses.replace(rows[0], started_at=rows[4].started_at)
    fresh = dataclasses.replace(rows[0], replicate=7)
    written = store.write_table

    def measure_meanwhile(path: Path, table: pa.Table, **how: object) -> None:
        written(path, table, **how)
        if path.name.startswith(store.PACKED):
            monkeypatch.setattr(store, "write_table", written)
            write_all(tmp_path, [again, fresh])

    monkeypatch.setattr(store, "write_table", measure_meanwhile)
    collection.compact(tmp_path, "smoke")
    assert store.find(tmp_path, "smoke", identify(again)) == again
    assert read_ids(tmp_path) == ids_of([again, fresh, *rows[1:]])
    assert len(content(tmp_path)) == 3


@pytest.mark.parametrize("reader", ["read", "find"])
def test_reader_sees_rows_that_are_packed_under_its_hands(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    write_all(tmp_path, rows)
    load = store.load_table

    def pack_first(path: Path, *arguments: Any, **more: Any) -> pa.Table:
        monkeypatch.setattr(store, "load_table", load)
        collection.compact(tmp_path, "smoke")
        return load(path, *arguments, **more)

    monkeypatch.setattr(store, "load_table", pack_first)
    if reader == "read":
        assert read_ids(tmp_path) == ids_of(rows)
    else:
        assert store.find(tmp_path, "smoke", identify(rows[0])) == rows[0]
    assert len(content(tmp_path)) == 1


def test_rows_that_are_packed_while_files_are_listed_are_seen(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, rows)
    walk = os.walk

    def pack_in_between(*arguments: Any, **more: Any) -> Iterator[Any]:
        monkeypatch.setattr(os, "walk", walk)
        steps = walk(*arguments, **more)
        yield next(steps)
        collection.compact(tmp_path, "smoke")
        yield from steps

    monkeypatch.setattr(os, "walk", pack_in_between)
    assert read_ids(tmp_path) == ids_of(rows)


def test_two_that_pack_at_once_lose_nothing(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, rows)
    written = store.write_table

    def pack_meanwhile(path: Path, table: pa.Table, **how: object) -> None:
        monkeypatch.setattr(store, "write_table", written)
        store.write(tmp_path, dataclasses.replace(rows[0], replicate=7))
        collection.compact(tmp_path, "smoke")
        written(path, table, **how)

    monkeypatch.setattr(store, "write_table", pack_meanwhile)
    collection.compact(tmp_path, "smoke")
    assert len(read_ids(tmp_path)) == len(rows) + 1


KILLED = """
import os, signal, sys
from pathlib import Path
from dlas.results import collection
replace = os.replace
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
collection.compact(Path(sys.argv[1]), "smoke")
"""


def test_killed_compact_leaves_no_half_file(tmp_path: Path, rows: list[Row]) -> None:
    write_all(tmp_path, rows)
    before = content(tmp_path)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    left = {name: data for name, data in content(tmp_path).items() if name not in before}
    assert len(left) == 1
    assert next(iter(left)).endswith(".tmp")
    assert read_ids(tmp_path) == ids_of(rows)
    assert remove_leftovers(tmp_path) == len(next(iter(left.values())))
    assert content(tmp_path) == before


def test_full_disk_while_packing_changes_nothing(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, rows)
    before = content(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        collection.compact(tmp_path, "smoke")
    assert content(tmp_path) == before


@pytest.mark.parametrize("version", LATER)
def test_older_versions_are_upgraded(tmp_path: Path, rows: list[Row], version: int) -> None:
    full, replicate, *_ = rows
    write_older(tmp_path, full, version)
    store.write(tmp_path, replicate)
    filled = dataclasses.replace(full, **{n: ADDED[n] for n in missing_in(version) if n != "id"})
    assert store.find(tmp_path, "smoke", identify(full)) == filled
    for _ in range(2):
        assert read_ids(tmp_path) == ids_of([full, replicate])
        collection.compact(tmp_path, "smoke")
    (packed,) = store.packed_files(tmp_path, "smoke")
    assert packed_rows(packed) == [filled, replicate]
    assert pq.read_schema(packed) == SCHEMA
    assert pq.read_schema(packed).metadata == SCHEMA.metadata


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "ours", tmp_path / "theirs"


@pytest.mark.parametrize("named", ["artifacts", "results"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_two_machines_become_one(
    folders: tuple[Path, Path], make_row: MakeRow, named: str, is_packed: bool
) -> None:
    ours, theirs = folders
    mine = [make_row(device=HERE, replicate=number) for number in range(2)]
    yours = [make_row(device=THERE, replicate=number) for number in range(3)]
    other = make_row(device=THERE, sweep="cifar")
    write_all(ours, mine)
    write_all(theirs, [*yours, other])
    if is_packed:
        collection.compact(theirs, "smoke")
    before = content(theirs)
    source = theirs / "results" if named == "results" else theirs
    assert collection.merge(ours, source) == [
        "cifar: 1 row added, 0 were here",
        "smoke: 3 rows added, 0 were here",
    ]
    assert content(theirs) == before
    assert read_ids(ours) == ids_of([*mine, *yours])
    assert read_ids(ours, "cifar") == ids_of([other])
    assert store.find(ours, "smoke", identify(yours[2])) == yours[2]
    merged = content(ours)
    assert collection.merge(ours, source) == [
        "cifar: 0 rows added, 1 were here",
        "smoke: 0 rows added, 3 were here",
    ]
    assert content(ours) == merged
    assert collection.merge(theirs, ours)[1] == "smoke: 2 rows added, 3 were here"
    assert read_ids(theirs) == read_ids(ours)


def test_merge_keeps_the_newer_of_two(folders: tuple[Path, Path], make_row: MakeRow) -> None:
    ours, theirs = folders
    old, new = make_row(), make_row(minutes=5)
    old_one, new_one = make_row(replicate=1), make_row(replicate=1, minutes=5)
    write_all(ours, [old, new_one])
    write_all(theirs, [new, old_one])
    assert collection.merge(ours, theirs) == ["smoke: 1 row added, 0 were here, 1 older than ours left out"]
    assert read_ids(ours) == ids_of([new, new_one])
    assert store.find(ours, "smoke", identify(old)) == new
    collection.compact(ours, "smoke")
    assert read_ids(ours) == ids_of([new, new_one])


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_merge_writes_nothing_beside_a_damaged_file(
    folders: tuple[Path, Path], make_row: MakeRow, whose: str
) -> None:
    ours, theirs = folders
    for artifacts, device in ((ours, HERE), (theirs, THERE)):
        write_all(artifacts, [make_row(device=device), make_row(device=device, sweep="cifar")])
    damaged = next(path for path in folders[whose == "theirs"].rglob("smoke/**/*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = content(ours)
    with pytest.raises(StorageError) as caught:
        collection.merge(ours, theirs)
    assert str(caught.value).startswith(f"{damaged} is damaged")
    assert content(ours) == before


def test_merge_needs_results(folders: tuple[Path, Path], make_row: MakeRow) -> None:
    ours, theirs = folders
    store.write(ours, make_row())
    (theirs / "results").mkdir(parents=True)
    for source in (theirs, theirs / "results", theirs / "nowhere", Path("results")):
        with pytest.raises(UsageError, match="has no results; name an artifacts folder, or its results"):
            collection.merge(ours, source)
    assert collection.merge(ours, ours) == ["smoke: 0 rows added, 1 were here"]


def test_merge_upgrades_older_rows(folders: tuple[Path, Path], make_row: MakeRow) -> None:
    ours, theirs = folders
    row = make_row()
    write_older(theirs, row, 2)
    collection.merge(ours, theirs)
    (packed,) = store.packed_files(ours, "smoke")
    assert pq.read_schema(packed) == SCHEMA
    assert pq.read_schema(packed).metadata == SCHEMA.metadata
    assert read_ids(ours) == ids_of([row])


def fault(artifacts: Path) -> str:
    """The one that `verify` finds."""
    lines = collection.verify(artifacts, ["smoke"])
    found, total = next(lines), next(lines)
    assert total.endswith(", 1 fault")
    with pytest.raises(StorageError, match="1 fault in the results; see the lines above"):
        next(lines)
    return found


def test_verify_is_content_with_good_rows(tmp_path: Path, rows: list[Row], make_row: MakeRow) -> None:
    right = {"top1_fraction": 0.8, "top1_n": 10, "misclassified": [0, 9], "replicate": 5}
    write_all(tmp_path, [*rows, make_row(**right), make_row(sweep="cifar")])
    write_older(tmp_path, make_row(replicate=6, top1_fraction=0.5, top1_n=4), 7)
    expected = ["smoke: 7 rows in 7 files, 0 faults", "cifar: 1 row in 1 file, 0 faults"]
    assert list(collection.verify(tmp_path, ["smoke", "cifar"])) == expected
    collection.compact(tmp_path, "smoke")
    assert list(collection.verify(tmp_path, ["smoke"])) == ["smoke: 7 rows in 1 file, 0 faults"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_verify_finds_a_flipped_bit(tmp_path: Path, rows: list[Row], is_packed: bool) -> None:
    paths = write_all(tmp_path, rows)
    if is_packed:
        collection.compact(tmp_path, "smoke")
        paths = store.packed_files(tmp_path, "smoke")
    flip(paths[0])
    assert fault(tmp_path).startswith(f"{paths[0]} is damaged: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": [1, 2], "repeats": 3}, "2 samples, not 3"),
        ({"samples": [5, 0, 7]}, "a sample that is not positive"),
        ({"samples": [5, -3, 7]}, "a sample that is not positive"),
        ({"top1_fraction": 0.5, "top1_n": 4, "misclassified": [1]}, "its accuracy is not that of its images"),
        ({"misclassified": [1]}, "its misclassified images are not images in order"),
        ({"top1_fraction": 0.5, "top1_n": 4, "misclassified": [1, 4]}, "not images in order"),
        ({"top1_fraction": 0.5, "top1_n": 4, "misclassified": [-1, 1]}, "not images in order"),
        ({"top1_fraction": 0.5, "top1_n": 4, "misclassified": [2, 2]}, "not images in order"),
        ({"top1_fraction": 0.5, "top1_n": 4, "misclassified": [3, 2]}, "not images in order"),
        (
            {"algorithm": "direct"},
            "its columns are not those of its cell cifar10/",
        ),
        ({"target": "odroid"}, "its columns are not those of its cell"),
    ],
    ids=str,
)
def test_verify_finds_what_cannot_be(
    tmp_path: Path, make_row: MakeRow, changes: dict[str, Any], words: str
) -> None:
    row = make_row(**changes)
    path = store.write(tmp_path, row)
    found = fault(tmp_path)
    assert found.startswith(f"{path}: row {row_id(vars(row))}: ")
    assert words in found


def test_verify_finds_what_cannot_be_among_packed_rows(
    tmp_path: Path, rows: list[Row], make_row: MakeRow
) -> None:
    wrong = make_row(replicate=5, samples=[1, 2], repeats=3)
    write_all(tmp_path, [*rows, wrong])
    collection.compact(tmp_path, "smoke")
    (path,) = store.packed_files(tmp_path, "smoke")
    assert fault(tmp_path) == f"{path}: row {row_id(vars(wrong))}: 2 samples, not 3"


@pytest.mark.parametrize("is_packed", [False, True])
def test_verify_finds_an_id_that_is_another_rows(tmp_path: Path, make_row: MakeRow, is_packed: bool) -> None:
    row = make_row()
    path = store.write(tmp_path, row)
    table = to_table(row)
    if is_packed:
        path.unlink()
        path = store.packed_path(tmp_path, "smoke", "abc")
    store.write_table(path, table.set_column(0, SCHEMA.field(0), pa.array(["0" * 16])))
    found = fault(tmp_path)
    assert found.startswith(f"{path}: ")
    expected = f"row {'0' * 16}: its columns make the id {row_id(vars(row))}" if is_packed else "another id"
    assert expected in found


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parsed(text: str, kind: pa.DataType) -> Any:
    """What a column of this type says, read from its text."""
    if pa.types.is_map(kind):
        pairs = [pair.partition("=") for pair in text.split(";") if pair]
        return {key: parsed(value, kind.item_type) for key, _, value in pairs}
    if pa.types.is_list(kind):
        return [parsed(word, kind.value_type) for word in text.split()]
    if pa.types.is_string(kind):
        return text
    if not text:
        return None
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[text]
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(text)
    return int(text) if pa.types.is_integer(kind) else float(text)


def test_csv_says_all_that_rows_say(tmp_path: Path, rows: list[Row], make_row: MakeRow) -> None:
    odd = {"reason": "a\rb\r\nc\nd,e;f\"g' =", "log": " späte 遅い ", "weight_bytes": None}
    right = {"top1_fraction": 1 / 3, "top1_n": 3, "misclassified": [0, 2], "trained": True}
    more = [
        make_row(replicate=5, status="quarantined", **odd),
        make_row(replicate=6, versions={"tvm": "0.27", "gcc": "12"}, fallbacks=["a", "b"], **right),
        make_row(sweep="cifar", minutes=99, log="10%\r20%"),
    ]
    write_all(tmp_path, [*rows, *more])
    collection.compact(tmp_path, "smoke")
    path = tmp_path / "deep" / "rows.csv"
    assert collection.export_csv(tmp_path, ["cifar", "smoke"], path) == f"8 rows in {path}"
    read = read_csv(path)
    assert list(read[0]) == [*collection.COMPUTED, *SCHEMA.names]
    by_id = {row_id(vars(row)): row for row in [*rows, *more]}
    assert sorted(line["id"] for line in read) == sorted(by_id)
    for line in read:
        row = by_id[line["id"]]
        found = {name: parsed(line[name], SCHEMA.field(name).type) for name in SCHEMA.names if name != "id"}
        assert found == vars(row)
        if row.samples_ns:
            quartiles = np.percentile(row.samples_ns, (50, 25, 75)).tolist()
            assert [float(line[name]) for name in ("median_ns", "q1_ns", "q3_ns")] == quartiles
        else:
            assert [line[name] for name in ("median_ns", "q1_ns", "q3_ns")] == [""] * 3


def test_csv_says_which_rows_count_in_their_sweep(tmp_path: Path, rows: list[Row], make_row: MakeRow) -> None:
    older = make_row(replicate=0, minutes=-5, inputs_key="aa" * 32)
    elsewhere = make_row(sweep="noise", minutes=50)
    write_all(tmp_path, [*rows, older, elsewhere])
    collection.export_csv(tmp_path, ["noise", "smoke"], tmp_path / "rows.csv")
    counting = {line["id"] for line in read_csv(tmp_path / "rows.csv") if line["counts"] == "true"}
    assert counting == {row.id for sweep in ("smoke", "noise") for row in current(tmp_path, sweep)}
    assert counting == set(ids_of([*rows[:4], elsewhere]))


def current(artifacts: Path, sweep: str) -> list[entries.Entry]:
    return entries.latest(store.read(artifacts, sweep).rows)


def test_csv_is_not_written_beside_a_damaged_file(tmp_path: Path, rows: list[Row]) -> None:
    flip(write_all(tmp_path, rows)[2])
    with pytest.raises(StorageError, match="is damaged"):
        collection.export_csv(tmp_path, ["smoke"], tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


def test_sweeps_are_chosen_by_name(tmp_path: Path, make_row: MakeRow) -> None:
    with pytest.raises(UsageError, match=r"no results in .*; `invoke run` makes them"):
        collection.choose(tmp_path, "")
    write_all(tmp_path, [make_row(), make_row(sweep="cifar")])
    (tmp_path / "results" / ".dlas-1-1-aa.tmp").mkdir()
    assert collection.choose(tmp_path, "") == ["cifar", "smoke"]
    assert collection.choose(tmp_path, "smoke") == ["smoke"]
    with pytest.raises(UsageError, match="sweep 'cifra' has no results; those with results: cifar, smoke"):
        collection.choose(tmp_path, "cifra")
