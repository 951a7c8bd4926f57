"""What many rows cost to keep and to report: rows that are made, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from dlas import publishing
from dlas.errors import UsageError
from dlas.results import collection, schema, store
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


def run(rows: int, say: Callable[[str], None]) -> str:
    """Make so many rows, and say how long a new process takes to load and to report them, and its memory.

    Raises UsageError for no rows.
    """
    if rows < 1:
        raise UsageError(f"{rows} rows are none", "give 1 or more")
    with TemporaryDirectory() as folder:
        root = Path(folder)
        say(f"making {rows:,} rows of {REPEATS} samples and {IMAGES} images")
        packed = collection.pack(root, SWEEP, make(rows))
        load, report = _measured("load", root), _measured("report", root)
        page_bytes = (root / publishing.FOLDER / SWEEP / "report.html").stat().st_size
        return (
            f"{rows:,} rows, {packed.stat().st_size / 1e6:.0f} MB in one file: "
            f"loaded in {load['seconds']:.1f} s; loaded and reported in {report['seconds']:.1f} s "
            f"and {report['peak_bytes'] / 2**20:.0f} MiB of memory, in a page of {page_bytes / 1e6:.0f} MB"
        )


def _measured(what: str, root: Path) -> dict[str, float]:
    """Of a new process, which does only that: its seconds from start to end, and its most memory."""
    began = time.monotonic()
    command = [sys.executable, "-m", "dlas.bench.results", what, str(root)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"seconds": time.monotonic() - began, "peak_bytes": json.loads(told)}


def main(what: str, root: Path) -> int:
    """Load the rows that are there, or load and report them; the most memory of this process, in bytes."""
    if what == "load":
        store.read(root, SWEEP)
    else:
        publishing.write_report(SWEEP, root, {})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
            "cifar10", ModelSpec(f"network{n}", "resnet18", ()), a, "fp32", f, g, "scheduled", "made"
        )
        for n in range(int(network[-1]) + 1)
        for c, (a, f, g) in enumerate(CONFIGURATIONS)
    }
    chosen = [cells[key] for key in zip(network.tolist(), configuration.tolist(), strict=True)]
    center = rng.lognormal(16, 1, len(cells))[network * len(CONFIGURATIONS) + configuration]
    center *= 1 + 0.1 * device + 0.01 * rng.standard_normal(rows)
    samples = (center[:, None] * np.exp(0.02 * rng.standard_normal((rows, REPEATS)))).astype(np.int64)
    # What is right is the network's and its compression's, in whatever format and algorithm.
    compressed = np.array([COMPRESSIONS.index(a) for a, _, _ in CONFIGURATIONS])[configuration]
    kinds = (int(network[-1]) + 1) * len(COMPRESSIONS)
    right = rng.random((kinds, IMAGES)) < 0.99 - 0.2 * rng.random((kinds, 1))
    correct = right[network * len(COMPRESSIONS) + compressed]
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
        "predictions_sha256": [f"{kind:064x}" for kind in network * len(COMPRESSIONS) + compressed],
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


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
