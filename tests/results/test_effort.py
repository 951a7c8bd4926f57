from __future__ import annotations

from collections.abc import Callable

from dlas.results.effort import SHARED_BY, total_seconds
from dlas.values import Row

CELLS = [f"digits/small/dense/fp32/dense/{name}/scheduled/x86_avx" for name in ("direct", "gemm")]


def test_what_rows_share_counts_once(make_row: Callable[..., Row]) -> None:
    seconds = {"train": 60.0, "import": 2.0, "compile": 3.0, "reference": 1.0, "measure": 5.0}
    rows = [
        make_row(
            cell=cell, artifact_sha256=cell, weights_sha256="w", stage_seconds=seconds, replicate=replicate
        )
        for cell in CELLS
        for replicate in (0, 1)
    ]
    assert total_seconds(rows) == {
        "train": 60.0,
        "import": 2.0,
        "compile": 6.0,
        "reference": 1.0,
        "measure": 20.0,
    }
    other = make_row(cell=CELLS[0], weights_sha256="v", stage_seconds={"train": 30.0})
    assert total_seconds([*rows, other])["train"] == 90.0


def test_every_column_is_one_of_a_row(make_row: Callable[..., Row]) -> None:
    row = make_row()
    assert all(hasattr(row, column) for columns in SHARED_BY.values() for column in columns)
