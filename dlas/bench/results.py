"""What many rows cost to keep and to report: rows that are made, in a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pyarrow as pa

from dlas.results import schema
from dlas.results.row import blank
from dlas.values import REPEATS, Cell, ModelSpec

SWEEP = "made"
REPLICATES = 5
IMAGES = 1000
DEVICES = tuple(f"{number:x}" * 32 for number in range(10))
COMPRESSIONS = (
    "dense",
    *(f"weight{level}" for level in (50, 60, 70, 80, 90, 95)),
    "channel40",
    "channel40_shrunk",
)
FORMATS = ("dense", "csr", "csr_packed", "auto")
ALGORITHMS = ("direct", "gemm", "spatial_pack")
CONFIGURATIONS = tuple(product(COMPRESSIONS, FORMATS, ALGORITHMS))[:100]


def make(rows: int, seed: int = 0) -> pa.Table:
    """So many measured rows: networks x configurations x devices x replicates, each with samples and images.

    The times are log-normal around one median for each cell, the accuracy falls with compression.
    """
    rng = np.random.default_rng(seed)
    per_network = len(CONFIGURATIONS) * len(DEVICES) * REPLICATES
    number = np.arange(rows)
    network, rest = np.divmod(number, per_network)
    configuration, rest = np.divmod(rest, len(DEVICES) * REPLICATES)
    device, replicate = np.divmod(rest, REPLICATES)
    cells = {
        (n, c): Cell(
            "cifar10", ModelSpec(f"network{n}", "resnet18", ()), a, "fp32", f, g, "scheduled", "x86_avx"
        )
        for n in range(int(network[-1]) + 1)
        for c, (a, f, g) in enumerate(CONFIGURATIONS)
    }
    chosen = [cells[key] for key in zip(network.tolist(), configuration.tolist(), strict=True)]
    center = rng.lognormal(16, 1, len(cells))[network * len(CONFIGURATIONS) + configuration]
    center *= 1 + 0.1 * device + 0.01 * rng.standard_normal(rows)
    samples = (center[:, None] * np.exp(0.02 * rng.standard_normal((rows, REPEATS)))).astype(np.int64)
    right = 0.7 + 0.25 * rng.random(len(cells))[network * len(CONFIGURATIONS) + configuration]
    correct = rng.random((rows, IMAGES)) < right[:, None]
    began = datetime(2026, 1, 1, tzinfo=UTC)
    columns = {
        "cell": [cell.id for cell in chosen],
        "model": [cell.model.name for cell in chosen],
        "compression": [cell.compression for cell in chosen],
        "format": [cell.format for cell in chosen],
        "algorithm": [cell.algorithm for cell in chosen],
        "device": [DEVICES[index] for index in device],
        "replicate": replicate,
        "started_at": [began + timedelta(seconds=index) for index in range(rows)],
        "samples_ns": _lists(samples),
        "misclassified": _indices(~correct),
        "top1_fraction": correct.mean(1),
        "weight_bytes": rng.integers(1 << 20, 1 << 26, len(cells))[
            network * len(CONFIGURATIONS) + configuration
        ],
    }
    template = blank(SWEEP, chosen[0], began, "ab" * 32, REPEATS, runner="local", threads=2, timer="wall")
    return _filled(vars(template) | FIXED, columns, rows)


FIXED = {
    "status": "measured",
    "publishable": True,
    "top1_n": IMAGES,
    "trained": True,
    "max_error_over_scale": 3e-7,
    "level_fraction": 0.5,
    "dense_weight_bytes": 1 << 26,
    "artifact_sha256": "cd" * 32,
    "dataset_sha256": "ef" * 32,
    "ops_total": 20,
    "ops_sparse": 0,
    "kernels": [f"fused_conv2d{number}" for number in range(20)],
    "versions": {"tvm": "0.27.0", "python": "3.11"},
    "environment_before": {"/proc/loadavg": "0.10 0.12 0.09"},
    "environment_after": {"/proc/loadavg": "0.40 0.22 0.12"},
    "stage_seconds": {"import": 1.0, "compile": 2.0, "measure": 0.5},
}


def _lists(values: np.ndarray) -> pa.Array:
    ends = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(ends, pa.array(values.ravel()))


def _indices(chosen: np.ndarray) -> pa.Array:
    """For each row, where it is true."""
    ends = np.concatenate([[0], np.cumsum(chosen.sum(1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.nonzero(chosen)[1]))


def _filled(template: dict[str, object], columns: dict[str, object], rows: int) -> pa.Table:
    made = []
    for field in schema.SCHEMA:
        if field.name in columns:
            made.append(pa.array(columns[field.name], field.type))
        elif field.name == schema.ID:
            made.append(pa.array([""] * rows))
        else:
            made.append(pa.repeat(pa.scalar(template[field.name], field.type), rows))
    table = pa.Table.from_arrays(made, schema=schema.SCHEMA)
    ids = pa.array(schema.row_ids(table))
    return table.set_column(0, schema.SCHEMA.field(0), ids)
