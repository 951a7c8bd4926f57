"""What docs/results.md tells to do with the rows, done with rows that are made to mislead."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from dlas.results import collection, entries, store
from dlas.results.entries import Entry
from dlas.results.identity import Identity, identify, row_id
from dlas.results.schema import to_table
from dlas.values import Row
from tests.results.conftest import made_row
from tests.results.older import write_older

DOC = Path(__file__).parents[2] / "docs" / "results.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
FOLDERS = ("artifacts", "board/artifacts")
HERE, THERE = "3f2a" * 16, "77" * 32
GEMM = "cifar10/resnet18/dense/fp32/dense/gemm/scheduled/x86_avx"


def run(blocks: Sequence[str] = BLOCKS) -> dict[str, Any]:
    """All blocks in turn, as in a notebook; what they have set."""
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(DOC), "exec"), names)
    return names


def made_at_random(seed: int, device: str) -> list[Row]:
    """Rows of few cells: replaced, of older code, quick looks, failures, some that reached no device."""
    draw = random.Random(seed)
    rows = []
    for minutes in draw.sample(range(1000), 32):
        status = draw.choice(["measured", "measured", "measured", "failed", "wrong_output", "invalid"])
        reached = status in ("measured", "wrong_output") or draw.random() < 0.5
        samples = [draw.randrange(10**6, 10**8) for _ in range(draw.choice([150, 5]))]
        rows.append(
            made_row(
                minutes=minutes,
                cell=GEMM.replace("gemm", draw.choice(["gemm", "direct"])),
                status=status,
                device=device if reached else "",
                replicate=draw.randrange(3),
                threads=draw.choice([1, 2]),
                sweep=draw.choice(["smoke", "cifar"]),
                inputs_key=draw.choice(["aa", "bb"]) * 32,
                samples=samples if status in ("measured", "wrong_output") else None,
                top1_fraction=0.8 if status == "measured" else None,
                top1_n=10 if status == "measured" else None,
                misclassified=[draw.randrange(5), 7] if status == "measured" else [],
            )
        )
    return rows


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Stored in two folders, packed and loose, with newer loose rows beside packed ones; as they are read."""
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(map(Path, FOLDERS)):
        made = sorted(made_at_random(seed, (HERE, THERE)[seed]), key=lambda row: row.started_at)
        for number, row in enumerate(made):
            store.write(folder, row)
            if number == len(made) // 2:
                collection.compact(folder, "smoke")
    return [row for folder in FOLDERS for sweep in ("smoke", "cifar") for row in read(Path(folder), sweep)]


def read(artifacts: Path, sweep: str) -> tuple[Entry, ...]:
    stored = store.read(artifacts, sweep)
    assert not stored.problems
    return stored.rows


def counting(rows: Sequence[Entry]) -> list[Entry]:
    sweeps = ("smoke", "cifar")
    return [row for sweep in sweeps for row in entries.latest(row for row in rows if row.sweep == sweep)]


def test_the_doc_tells_what_dlas_tells(rows: list[Entry]) -> None:
    assert len(BLOCKS) == 4
    names, kept, all_rows = run(), counting(rows), every_row()
    expected = sorted(row.id for row in kept)
    assert 5 < len(expected) < len(rows) < len(all_rows)
    assert ids(names["counting"]) == sorted(names["frame"]["id"]) == expected
    assert sorted(names["frame_of_polars"]["id"]) == expected
    expect_latencies(names["latencies"].fetchall(), kept)
    expect_pandas(names["medians"], [row for row in all_rows if row.device == HERE])
    expect_polars(names["fastest"], [row for row in all_rows if row.device == THERE])
    smoke = [row for row in all_rows if row.sweep == "smoke"]
    gemm = sorted(row.id for row in smoke if row.algorithm == "gemm")
    assert sorted(names["table"].column("id").to_pylist()) == gemm
    assert names["by_version"].fetchall() == [(8, len(smoke))]
    lazy = pl.scan_pyarrow_dataset(names["dataset"]).filter(pl.col("threads") == 1).select("id").collect()
    assert sorted(lazy["id"]) == sorted(row.id for row in smoke if row.threads == 1)


def ids(relation: duckdb.DuckDBPyRelation) -> list[str]:
    return sorted(id for (id,) in relation.project("id").fetchall())


def every_row() -> list[Entry]:
    """Replaced ones too, as tools that read files find them."""
    paths = [path for folder in FOLDERS for path in Path(folder).rglob("*.parquet")]
    return entries.from_table(store.read_tables(paths, entries.COLUMNS)[0])


def expect_latencies(lines: list[tuple[Any, ...]], kept: Sequence[Entry]) -> None:
    processes: dict[tuple[Any, ...], list[Entry]] = {}
    for row in kept:
        if row.is_timed:
            processes.setdefault((row.sweep, row.cell, row.device, row.runner, row.threads), []).append(row)
    expected = [
        (key[1], key[2], median(row.median_ns for row in group) / 1e6, len(group), 0.8)
        for key, group in processes.items()
    ]
    assert len(expected) > 4
    assert lines == sorted(expected, key=lambda line: line[2])


def medians_of(rows: Sequence[Entry]) -> dict[tuple[str, str], float]:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.status == "measured":
            groups.setdefault((row.cell, row.device), []).append(float(np.median(row.samples_ns)))
    return {key: median(values) for key, values in groups.items()}


def expect_pandas(medians: Any, rows: Sequence[Entry]) -> None:
    expected = {key: value for key, value in medians_of(rows).items() if key[0] == GEMM}
    assert medians.to_dict() == expected
    assert len(expected) == 1


def expect_polars(fastest: pl.DataFrame, rows: Sequence[Entry]) -> None:
    expected = medians_of(rows)
    assert len(expected) == 2
    assert fastest.columns == ["cell", "device", "median_ns", "top1_fraction"]
    assert fastest.rows() == sorted(
        [(*key, value, 0.8) for key, value in expected.items()], key=lambda line: line[2]
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_query_counts_as_dlas_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (folder, device) in enumerate(zip(FOLDERS, (HERE, THERE), strict=True)):
        table = pa.concat_tables(map(to_table, made_at_random(100 + 2 * seed + number, device)))
        store.write_table(store.packed_path(Path(folder), "any", "all"), table)
    newest: dict[tuple[str, Identity], Entry] = {}
    for row in sorted(every_row(), key=lambda row: row.started_at):
        newest[row.sweep, identify(row)] = row
    assert ids(run(BLOCKS[:1])["counting"]) == sorted(row.id for row in counting(list(newest.values())))


def test_rows_of_two_versions_are_read_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = made_row(), made_row(replicate=1, gpu="Mali")
    for folder in map(Path, FOLDERS):
        write_older(folder, old, 3)
        store.write(folder, new)
    expected = [(None, None, 3), (row_id(vars(new)), "Mali", 8)]
    query = "SELECT id, gpu, schema_version FROM read_parquet('artifacts/**/*.parquet'{}) ORDER BY replicate"
    assert duckdb.sql(query.format(", union_by_name = true")).fetchall() == expected
    paths = sorted(Path("artifacts").rglob("*.parquet"))
    for order in (paths, paths[::-1]):
        frames = pl.concat(map(pl.scan_parquet, order), how="diagonal")
        found = frames.sort("replicate").select("id", "gpu", "schema_version").collect()
        assert found.rows() == expected
    for folder in map(Path, FOLDERS):
        collection.compact(folder, "smoke")
    names = run()
    assert names["by_version"].fetchall() == [(8, 4)]
    assert set(names["frame"]["id"]) == {row_id(vars(old)), row_id(vars(new))}
