"""Where the time of a sweep went, by stage: what several rows share is counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dlas.values import Row

# Stages in the order of the work, and the columns that tell whose time each was; with `cell`, the row's own.
SHARED_BY: Mapping[str, tuple[str, ...]] = {
    "train": ("weights_sha256",),
    "import": ("model", "dataset", "weights_sha256"),
    "lower": ("artifact_sha256",),
    "compile": ("artifact_sha256",),
    "link": ("artifact_sha256",),
    "reference": ("model", "weights_sha256", "dataset_sha256", "top1_n"),
    "ship": ("cell", "device", "runner", "threads", "replicate"),
    "measure": ("cell", "device", "runner", "threads", "replicate"),
    "accuracy": ("cell", "device", "runner", "threads", "replicate"),
}


def total_seconds(rows: Iterable[Row]) -> dict[str, float]:
    """Seconds of each stage over all rows; stages that no row has are left out."""
    spent: dict[str, dict[tuple[object, ...], float]] = {}
    for row in rows:
        for stage, seconds in row.stage_seconds.items():
            owner = tuple(getattr(row, column) for column in SHARED_BY[stage])
            spent.setdefault(stage, {})[owner] = seconds
    return {stage: sum(spent[stage].values()) for stage in SHARED_BY if stage in spent}
