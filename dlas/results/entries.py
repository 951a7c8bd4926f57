"""Rows as they are read to say something of them: many of them, light, with samples as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlas.results.schema import SCHEMA

# In the order of a cell's id.
CELL_AXES = ("dataset", "model", "compression", "precision", "format", "algorithm", "tuning", "target")

Place = tuple[str, str, str, int, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One row: the columns of `values.Row` that say something of more than itself, under their names.

    samples_ns: int64 (repeats,), empty where nothing was measured. correct: bool (top1_n,), empty where the
    accuracy of single images is not known. What several rows share is shared: nothing here is to be changed.
    """

    id: str
    cell: str
    sweep: str
    dataset: str
    model: str
    compression: str
    level_fraction: float | None
    weight_sparsity_fraction: float | None
    mac_sparsity_fraction: float | None
    weight_bytes: int | None
    dense_weight_bytes: int | None
    precision: str
    format: str
    layout: str
    algorithm: str
    tuning: str
    tuning_trials: int
    tuning_seconds: float
    tuned_fraction: float | None
    target: str
    runner: str
    device: str
    device_model: str
    replicate: int
    emulated: bool
    status: str
    reason: str
    publishable: bool
    repeats: int
    samples_ns: NDArray[np.int64]
    max_error_over_scale: float | None
    oracle: str
    top1_fraction: float | None
    top5_fraction: float | None
    top1_n: int | None
    correct: NDArray[np.bool_]
    accuracy_reason: str
    trained: bool | None
    weights_sha256: str
    recipe: str
    finetuning: str
    calibration: str
    dataset_sha256: str
    artifact_sha256: str
    image_id: str
    stand_in: bool
    gpu: str
    timer: str
    threads: int
    cpu_set: str
    ops_total: int | None
    ops_sparse: int | None
    fallbacks: Sequence[str]
    versions: Mapping[str, str]
    started_at: datetime
    stage_seconds: Mapping[str, float]
    peak_rss_bytes: int | None
    inputs_key: str
    commit: str
    log: str

    @property
    def is_timed(self) -> bool:
        """Whether its times count."""
        return self.status == "measured" and len(self.samples_ns) > 0 and not self.emulated


COLUMNS = tuple(field.name for field in fields(Entry))
_ARRAYS = ("samples_ns", "correct")


def from_table(table: pa.Table) -> list[Entry]:
    """The rows of a table that has at least the columns of an `Entry`, in its order."""
    return [Entry(*values) for values in zip(*(_values(table, name) for name in COLUMNS), strict=True)]


def latest(entries: Iterable[Entry]) -> list[Entry]:
    """The rows that are true today: of each place the newest code only, of each replicate one row.

    A place is a cell on a device with a runner, a number of threads, emulated or not; its newest row
    says which inputs_key counts. Of several rows of one replicate the newest counts, but a quick
    look hides no publishable row and joins none. A row that reached no device (its `device` is empty)
    counts until there is a newer one of its cell and replicate.
    """
    places: dict[Place, list[Entry]] = {}
    newest: dict[tuple[str, int], datetime] = {}
    for entry in entries:
        places.setdefault(place_of(entry), []).append(entry)
        attempt = entry.cell, entry.replicate
        newest[attempt] = max(entry.started_at, newest.get(attempt, entry.started_at))
    current = [entry for group in places.values() for entry in _current(group)]
    return [each for each in current if each.device or each.started_at == newest[each.cell, each.replicate]]


def place_of(entry: Entry) -> Place:
    """What must be equal for rows to be replicates of each other, if their inputs_key is."""
    return entry.cell, entry.device, entry.runner, entry.threads, entry.emulated


def axes_of(entry: Entry) -> dict[str, str]:
    """The values of its cell, by axis."""
    return {axis: getattr(entry, axis) for axis in CELL_AXES}


def _current(entries: list[Entry]) -> list[Entry]:
    """What `latest` keeps of the rows of one place."""
    newest_first = sorted(entries, key=lambda entry: entry.started_at, reverse=True)
    chosen: dict[int, Entry] = {}
    for entry in newest_first:
        if entry.inputs_key != newest_first[0].inputs_key:
            continue
        known = chosen.setdefault(entry.replicate, entry)
        if entry.publishable and not known.publishable:
            chosen[entry.replicate] = entry
    kept = [chosen[replicate] for replicate in sorted(chosen)]
    if any(entry.publishable for entry in kept):
        kept = [entry for entry in kept if entry.publishable or entry.status != "measured"]
    return kept


def _values(table: pa.Table, name: str) -> Iterable[Any]:
    """One Python value for each row; equal texts, lists and maps are one object."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # pyarrow leaves it so where there is no chunk
        column = pa.array([], column.type)
    kind = SCHEMA.field(name).type
    if name in _ARRAYS:
        return _pieces(column.offsets, column.values.to_numpy(zero_copy_only=False))
    if pa.types.is_map(kind):
        keys, items = _shared(column.keys), column.items
        items = _shared(items) if pa.types.is_string(items.type) else items.to_pylist()
        return _nested(column.offsets, list(zip(keys, items, strict=True)), dict)
    if pa.types.is_list(kind):
        return _nested(column.offsets, _shared(column.values), list)
    return _shared(column) if pa.types.is_string(kind) else column.to_pylist()


def _pieces(offsets: pa.Array, values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[first:last] for first, last in pairwise(offsets.to_numpy())]


def _nested(offsets: pa.Array, values: list[Any], make: Callable[[Sequence[Any]], Any]) -> list[Any]:
    made: dict[tuple[Any, ...], Any] = {}
    pieces = (tuple(values[first:last]) for first, last in pairwise(offsets.to_pylist()))
    return [made[piece] if piece in made else made.setdefault(piece, make(piece)) for piece in pieces]


def _shared(column: pa.Array) -> list[str]:
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [words[index] for index in encoded.indices.to_pylist()]
