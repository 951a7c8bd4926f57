"""Rows as they are read to say something of them: many of them, light, with samples as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlas.results.schema import SCHEMA

# In the order of a cell's id.
CELL_AXES = ("dataset", "model", "compression", "precision", "format", "algorithm", "tuning", "target")

Place = tuple[str, str, str, int, bool]


class Entry(NamedTuple):
    """One row: the columns of `values.Row` that say something of more than itself, under their names.

    samples_ns: int64 (repeats,), empty where nothing was measured. What several rows share is shared: nothing
    here is to be changed. A named tuple, of which a hundred thousand are made in a tenth of a second.
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
    misclassified: NDArray[np.int64]
    predictions_sha256: str
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

    # Computed: the median of samples_ns, NaN without any.
    median_ns: float

    @property
    def is_timed(self) -> bool:
        """Whether its times count."""
        return self.status == "measured" and len(self.samples_ns) > 0 and not self.emulated

    @property
    def correct(self) -> NDArray[np.bool_] | None:
        """Of each image, whether the artifact was right: bool (top1_n,). None where that is not known."""
        if self.top1_fraction is None or self.top1_n is None:
            return None
        if len(self.misclassified) != round(self.top1_n * (1 - self.top1_fraction)):
            return None  # a row from before they were kept
        right = np.ones(self.top1_n, dtype=np.bool_)
        right[self.misclassified] = False
        return right


COLUMNS = tuple(name for name in Entry._fields if name != "median_ns")
_ARRAYS = ("samples_ns", "misclassified")
_ROWS_AT_ONCE = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_table(table: pa.Table) -> list[Entry]:
    """The rows of a table that has at least the columns of an `Entry`, in its order."""
    columns = {name: _values(table, name) for name in COLUMNS}
    medians = _medians(columns["samples_ns"])
    return list(map(Entry._make, zip(*columns.values(), medians, strict=True)))


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


def _values(table: pa.Table, name: str) -> list[Any]:
    """One Python value for each row; equal texts, lists and maps are one object."""
    column, kind = table.column(name), SCHEMA.field(name).type
    if name in _ARRAYS:
        return [piece for chunk in column.chunks for piece in _pieces(chunk)]
    column = column.combine_chunks()
    if pa.types.is_timestamp(kind):
        return [_EPOCH + timedelta(microseconds=us) for us in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_map(kind):
        keys, items = _shared(column.keys), column.items
        items = _shared(items) if pa.types.is_string(items.type) else items.to_pylist()
        return _nested(column.offsets, list(zip(keys, items, strict=True)), dict)
    if pa.types.is_list(kind):
        return _nested(column.offsets, _shared(column.values), list)
    values: list[Any] = _shared(column) if pa.types.is_string(kind) else column.to_pylist()
    return values


def _pieces(lists: pa.Array) -> list[NDArray[Any]]:
    """Views, not copies: with many rows these are most of the memory."""
    values = np.from_dlpack(lists.values)  # to_numpy would import pandas, where it is installed
    return [values[first:last] for first, last in pairwise(lists.offsets.to_pylist())]


def _medians(samples: list[NDArray[np.int64]]) -> list[float]:
    """Of each process; those of one length at once."""
    sizes = np.array([len(each) for each in samples], dtype=np.int64)
    medians = np.full(len(samples), np.nan)
    for size in np.unique(sizes[sizes > 0]):
        (places,) = np.nonzero(sizes == size)
        for part in np.array_split(places, 1 + len(places) // _ROWS_AT_ONCE):
            medians[part] = np.median(np.stack([samples[place] for place in part]), axis=1)
    found: list[float] = medians.tolist()
    return found


def _nested(offsets: pa.Array, values: list[Any], make: Callable[[Sequence[Any]], Any]) -> list[Any]:
    made: dict[tuple[Any, ...], Any] = {}
    pieces = (tuple(values[first:last]) for first, last in pairwise(offsets.to_pylist()))
    return [made[piece] if piece in made else made.setdefault(piece, make(piece)) for piece in pieces]


def _shared(column: pa.Array) -> list[str]:
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [words[index] for index in encoded.indices.to_pylist()]
