from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from dlas.results.entries import Entry, from_table
from dlas.results.schema import SCHEMA_VERSION, to_table
from dlas.values import REPEATS, Row

START = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def make_row() -> Callable[..., Row]:
    return made_row


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """The same, as it is read."""
    return lambda **changes: entries_of([made_row(**changes)])[0]


def entries_of(rows: Sequence[Row]) -> list[Entry]:
    return from_table(pa.concat_tables([to_table(row) for row in rows]))


def made_row(*, minutes: int = 0, samples: list[int] | None = None, **changes: Any) -> Row:
    """A measured row of 150 samples around 12 ms, started `minutes` after noon; `changes` name fields."""
    cell = changes.get("cell", "cifar10/resnet18/dense/fp32/dense/gemm/scheduled/x86_avx")
    dataset, model, compression, precision, form, algorithm, tuning, target = cell.split("/")
    status = changes.get("status", "measured")
    if samples is None:
        samples = (
            [12_000_000 + 1_000 * (i * 37 % 150) for i in range(REPEATS)] if status == "measured" else []
        )
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cell": cell,
        "sweep": "smoke",
        "dataset": dataset,
        "model": model,
        "compression": compression,
        "level_fraction": 0.0 if status == "measured" else None,
        "weight_sparsity_fraction": 0.0 if status == "measured" else None,
        "mac_sparsity_fraction": 0.0 if status == "measured" else None,
        "weight_bytes": 0 if status == "measured" else None,
        "dense_weight_bytes": 0 if status == "measured" else None,
        "precision": precision,
        "arithmetic": "float32",
        "format": form,
        "layout": "nchw",
        "algorithm": algorithm,
        "tuning": tuning,
        "tuning_trials": 0,
        "tuning_seconds": 0.0,
        "tuning_sha256": "",
        "tuned_fraction": 0.0 if status == "measured" else None,
        "target": target,
        "runner": "local",
        "device": "3f2a" * 16,
        "device_model": "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz",
        "replicate": 0,
        "emulated": False,
        "status": status,
        "reason": "",
        "publishable": status == "measured" and len(samples) >= REPEATS,
        "repeats": len(samples) or REPEATS,
        "samples_ns": samples,
        "warmup_ns": [15_000_000, 12_500_000],
        "max_error_over_scale": 2.5e-7 if status == "measured" else None,
        "float32_error_over_scale": 2.5e-7 if status == "measured" else None,
        "oracle": "pytorch",
        "top1_fraction": None,
        "top5_fraction": None,
        "top1_n": None,
        "reference_top1_fraction": None,
        "predictions_differing": None,
        "predictions_sha256": "",
        "misclassified": [],
        "accuracy_reason": "no weights",
        "trained": False if status == "measured" else None,
        "weights": "untrained" if status == "measured" else "",
        "weights_sha256": "",
        "recipe": "",
        "finetuning": "",
        "calibration": "",
        "dataset_sha256": "",
        "artifact_sha256": "ab" * 32,
        "image_id": "",
        "image_base": "",
        "stand_in": False,
        "gpu": "",
        "timer": "wall",
        "threads": 2,
        "cpu_set": "0-1",
        "ops_total": 20,
        "ops_as_asked": 20,
        "ops_depthwise": 0,
        "ops_integer": 0,
        "ops_sparse": 0,
        "fallbacks": [],
        "kernels": ["conv2d_gemm", "dense"],
        "versions": {"tvm": "0.27.0"},
        "environment_before": {"/proc/loadavg": "0.10 0.12 0.09"},
        "environment_after": {"/proc/loadavg": "0.40 0.22 0.12"},
        "started_at": START + timedelta(minutes=minutes),
        "stage_seconds": {"import": 1.0, "lower": 0.5, "compile": 1.5, "link": 0.25},
        "peak_rss_bytes": 80 << 20,
        "inputs_key": "cd" * 32,
        "commit": "",
        "log": "",
    }
    return Row(**(fields | changes))
