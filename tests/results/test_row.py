"""What a row says of a compressed network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dlas.results import row as rows
from dlas.values import Cell, JobResult, ModelSpec, Row, Samples, Weights
from tests.measurement.answering import make_artifact
from tests.results.conftest import START

SPEC = ModelSpec("mine", "tests.networks:tiny", (1, 3, 8, 8))
CELL = Cell("digits", SPEC, "weight@elbow", "int8", "dense", "gemm", "scheduled", "x86_avx")
WEIGHTS = Weights("trained", Path("w.pt"), "5" * 64, "digits", "d" * 64, 60.0, "", "digits_finetune", 7.5)


def blank(weights: Weights | None) -> Row:
    return rows.blank("trial", CELL, START, "key", 150, weights=weights)


def test_before_it_runs_a_row_says_how_its_weights_were_made() -> None:
    row = blank(WEIGHTS)
    assert (row.compression, row.precision, row.level_fraction) == ("weight@elbow", "int8", None)
    assert (row.recipe, row.finetuning, row.weights_sha256) == ("digits", "digits_finetune", "5" * 64)
    assert row.stage_seconds == {"train": 60.0, "finetune": 7.5}
    assert blank(replace(WEIGHTS, finetuning="", finetune_seconds=0.0)).stage_seconds == {"train": 60.0}
    assert (blank(None).finetuning, blank(None).oracle, blank(None).stage_seconds) == ("", "", {})


def test_a_measured_row_has_what_the_artifact_says(tmp_path: Path) -> None:
    artifact = replace(
        make_artifact(tmp_path, 1, 3, "onnxruntime"),
        ops_total=5,
        ops_integer=4,
        level_fraction=0.9,
        weight_sparsity_fraction=0.91,
        arithmetic="8-bit integers",
        layout="nhwc",
        calibration="128 images of val",
        stage_seconds={"quantize": 3.0},
    )
    result = JobResult(np.zeros((1, 1, 3)), True, (), (5,), 1, "0", 9, {}, {}, 2.0, 0.5)
    row = rows.measured(blank(WEIGHTS), artifact, Samples("measured", "", 0.01, 0.04, result))
    assert (row.level_fraction, row.weight_sparsity_fraction, row.arithmetic) == (0.9, 0.91, "8-bit integers")
    assert (row.max_error_over_scale, row.float32_error_over_scale) == (0.01, 0.04)
    assert (row.oracle, row.calibration, row.layout) == ("onnxruntime", "128 images of val", "nhwc")
    assert (row.ops_total, row.ops_integer) == (5, 4)
    assert row.stage_seconds == {"train": 60, "finetune": 7.5, "quantize": 3, "measure": 2, "ship": 0.5}


def test_a_tuned_row_has_what_its_choices_took(tmp_path: Path) -> None:
    row = rows.blank(
        "trial", CELL, START, "key", 150, tuning_trials=40, tuning_seconds=2.5, tuning_sha256="c" * 64
    )
    assert (row.tuning_trials, row.tuning_seconds, row.tuning_sha256) == (40, 2.5, "c" * 64)
    assert row.tuned_fraction is None
    assert (blank(None).tuning_trials, blank(None).tuning_seconds, blank(None).tuning_sha256) == (0, 0.0, "")
    artifact = make_artifact(tmp_path, 1, 3)
    fractions = [
        rows.failed(row, "gone", replace(artifact, ops_total=total, ops_tuned=some)).tuned_fraction
        for total, some in ((4, 3), (4, 0), (0, 0))
    ]
    assert fractions == [0.75, 0.0, 0.0]
