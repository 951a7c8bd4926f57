"""Where the time of a sweep went, by stage: what several rows share is counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from dlas.results.entries import Entry, place_of

Owner = tuple[object, ...]  # what tells whose time it was


def _network(row: Entry) -> Owner:
    return row.model, row.dataset, row.weights_sha256, row.level_fraction, row.compression.endswith("_shrunk")


def _oracle(row: Entry) -> Owner:
    """Whose predictions: PyTorch's are of the network, ONNX Runtime's of its form in integers."""
    return row.oracle, row.precision if row.oracle == "onnxruntime" else ""


def _run(row: Entry) -> Owner:
    return (*place_of(row), row.replicate)


# Stages in the order of the work, and whose time each was.
OWNERS: Mapping[str, Callable[[Entry], Owner]] = {
    "train": lambda row: (row.model, row.dataset, row.recipe),
    # From the dense network on: the longest one contains the others.
    "finetune": lambda row: (row.model, row.dataset, row.finetuning, row.compression.startswith("channel")),
    "quantize": lambda row: (*_network(row), row.precision, row.target),
    "import": lambda row: (*_network(row), *_oracle(row)),
    "lower": lambda row: (row.artifact_sha256,),
    "compile": lambda row: (row.artifact_sha256,),
    "link": lambda row: (row.artifact_sha256,),
    "reference": lambda row: (*_network(row), *_oracle(row), row.dataset_sha256, row.top1_n),
    "ship": _run,
    "measure": _run,
    "accuracy": _run,
}


def total_seconds(rows: Iterable[Entry]) -> dict[str, float]:
    """Seconds of each stage over all rows; stages that no row has are left out."""
    spent: dict[str, dict[Owner, float]] = {stage: {} for stage in OWNERS}
    for row in rows:
        for stage, seconds in row.stage_seconds.items():
            owners, owner = spent[stage], OWNERS[stage](row)
            if seconds > owners.get(owner, -1.0):
                owners[owner] = seconds
    return {stage: sum(owners.values()) for stage, owners in spent.items() if owners}
