"""Rows as earlier versions of dlas stored them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dlas.results import store
from dlas.results.schema import to_table
from dlas.values import Row

# The columns that each version had not yet.
LATER = {
    2: "level_fraction weight_sparsity_fraction mac_sparsity_fraction weight_bytes dense_weight_bytes "
    "arithmetic float32_error_over_scale oracle finetuning calibration ops_integer ops_sparse",
    3: "",
    4: "image_base stand_in",
    5: "tuning_trials tuning_seconds tuning_sha256 tuned_fraction",
    6: "gpu timer",
    7: "id misclassified commit",
}


def missing_in(version: int) -> list[str]:
    return " ".join(words for since, words in LATER.items() if since >= version).split()


def older_table(row: Row, version: int) -> pa.Table:
    table = to_table(row).drop_columns(missing_in(version))
    place = table.schema.get_field_index("schema_version")
    table = table.set_column(place, table.schema.field(place), pa.array([version]))
    return table.replace_schema_metadata({"dlas.schema_version": str(version)})


def write_older(artifacts: Path, row: Row, version: int) -> Path:
    path = store.write(artifacts, row)
    store.write_table(path, older_table(row, version))
    return path
