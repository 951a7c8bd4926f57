"""The examples of docs/results.md, run on rows of two machines, loose and packed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlas.results import collection, store
from dlas.values import Row
from tests.results.made import replicates

DOC = Path(__file__).parents[2] / "docs" / "results.md"
DIRECT = "digits/small/dense/fp32/dense/direct/scheduled/x86_avx"
GEMM = DIRECT.replace("direct", "gemm")


@pytest.fixture
def medians_ms(
    tmp_path: Path, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """Rows in the current folder: of each cell the median of its processes. One row is of older code."""
    here, other, found = tmp_path / "artifacts", tmp_path / "other" / "artifacts", {}
    for cell, median_us in ((DIRECT, 500), (GEMM, 700)):
        rows = replicates(make_row, cell, median_us, (3,), sweep="digits")
        found[cell] = float(np.median([np.median(row.samples_ns) for row in rows])) / 1e6
        for row in rows:
            store.write(here, row)
    collection.compact(here, "digits")
    old = {"inputs_key": "00" * 32, "minutes": -9, "replicate": 7, "samples": [9_000_000] * 150}
    store.write(here, make_row(cell=DIRECT, sweep="digits", **old))
    store.write(here, make_row(cell=DIRECT, sweep="digits", status="failed", replicate=8))
    store.write(other, make_row(cell=DIRECT, sweep="digits", device="77" * 32))
    monkeypatch.chdir(tmp_path)
    return found


def example(word: str) -> dict[str, Any]:
    """The names that the example with this word makes."""
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    (chosen,) = [block for block in blocks if word in block]
    names: dict[str, Any] = {}
    exec(chosen, names)
    return names


def test_every_example_is_run() -> None:
    assert DOC.read_text().count("```python") == 5


def test_duckdb_finds_the_rows_that_count(medians_ms: dict[str, float]) -> None:
    found = example("import duckdb")["medians"]
    assert [(cell, processes) for cell, processes, _, _ in found] == [(DIRECT, 5), (GEMM, 5)]
    assert [median for _, _, median, _ in found] == pytest.approx(list(medians_ms.values()))
    assert {top1 for *_, top1 in found} == {1 - 1 / 360}


def test_polars(medians_ms: dict[str, float]) -> None:
    found = example("import polars")["gemm"]
    assert found.rows() == [(GEMM, pytest.approx(medians_ms[GEMM]), 5)]


def test_pandas(medians_ms: dict[str, float]) -> None:
    found = example("import pandas")["medians"]
    assert found[GEMM] == pytest.approx(medians_ms[GEMM])
    assert set(found.index) == {DIRECT, GEMM}


def test_folders_of_two_machines(medians_ms: dict[str, float]) -> None:
    table = example("open_results")["table"]
    assert table.num_rows == 7
    assert set(table.column("cell").to_pylist()) == {DIRECT}
    assert len(set(table.column("device").to_pylist())) == 2


def test_lines(medians_ms: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    fastest = example("lines_of")["fastest"]
    assert fastest.first.cell == DIRECT
    assert fastest.median_ns / 1e6 == pytest.approx(medians_ms[DIRECT])
    assert all(each in capsys.readouterr().out for each in fastest.ids[:1])
