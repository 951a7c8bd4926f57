from __future__ import annotations

from collections.abc import Callable

import pytest

from dlas.results.effort import OWNERS, total_seconds
from dlas.results.entries import Entry

CELLS = [f"digits/small/dense/fp32/dense/{name}/scheduled/x86_avx" for name in ("direct", "gemm")]


def test_what_rows_share_counts_once(make_entry: Callable[..., Entry]) -> None:
    seconds = {"train": 60.0, "import": 2.0, "compile": 3.0, "reference": 1.0, "measure": 5.0}
    rows = [
        make_entry(
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
    other = make_entry(cell=CELLS[0].replace("small", "wide"), stage_seconds={"train": 30.0})
    assert total_seconds([*rows, other])["train"] == 90.0


def test_pruned_networks_share_the_training_of_the_dense_one(make_entry: Callable[..., Entry]) -> None:
    seconds = {"train": 60.0, "quantize": 2.0}
    cells = [cell.replace("dense", compression, 1) for cell in CELLS for compression in ("dense", "weight90")]
    weights = {cell: "dense" if "small/dense" in cell else "pruned" for cell in cells}
    rows = [
        make_entry(
            cell=cell,
            weights_sha256=weights[cell],
            recipe="digits",
            finetuning="" if weights[cell] == "dense" else "digits_finetune",
            stage_seconds=seconds | ({} if weights[cell] == "dense" else {"finetune": 5.0}),
        )
        for cell in cells
    ]
    assert total_seconds(rows) == {"train": 60.0, "finetune": 5.0, "quantize": 4.0}


def test_a_level_contains_those_before_it(make_entry: Callable[..., Entry]) -> None:
    spent = {
        "weight50": 3.0,
        "weight90": 7.5,
        "weight@elbow": 12.0,
        "channel50": 4.0,
        "channel50_shrunk": 4.0,
    }
    rows = [
        make_entry(
            cell=CELLS[0].replace("dense", name, 1),
            finetuning="digits_finetune",
            stage_seconds={"finetune": seconds},
        )
        for name, seconds in spent.items()
    ]
    assert total_seconds(rows) == {"finetune": 12.0 + 4.0}
    assert total_seconds(reversed(rows)) == {"finetune": 12.0 + 4.0}


def test_integers_of_two_kinds_have_predictions_of_their_own(make_entry: Callable[..., Entry]) -> None:
    oracles = {"fp32": "pytorch", "fp16": "pytorch", "int8": "onnxruntime", "int8_ort_default": "onnxruntime"}
    rows = [
        make_entry(cell=CELLS[0].replace("fp32", precision), oracle=oracle, stage_seconds={"reference": 1.0})
        for precision, oracle in oracles.items()
    ]
    assert total_seconds(rows) == {"reference": 3.0}


@pytest.mark.parametrize("stage", OWNERS)
def test_every_stage_has_an_owner(make_entry: Callable[..., Entry], stage: str) -> None:
    assert total_seconds([make_entry(stage_seconds={stage: 2.0})]) == {stage: 2.0}
