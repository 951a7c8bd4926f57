from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlas.results import entries
from dlas.results.entries import Entry, from_table, latest
from dlas.results.identity import row_id
from dlas.results.schema import SCHEMA, of_columns, to_table
from dlas.values import Row
from tests.results.conftest import START, made_row

MakeRow = Callable[..., Row]
MakeEntry = Callable[..., Entry]
CHANGES: list[dict[str, Any]] = [
    {},
    {"replicate": 1, "samples": [3], "versions": {"tvm": "0.27.0", "python": "3.11"}},
    {"replicate": 2, "status": "failed", "reason": "späte Antwort, 遅い\n2. Zeile", "versions": {}},
    {"replicate": 3, "samples": [7, 1, 4, 2], "fallbacks": ["conv1", "conv2"]},
    {"replicate": 4, "samples": [9, 8, 7], "misclassified": [0, 5], "top1_n": 10, "top1_fraction": 0.8},
    {"replicate": 5, "status": "invalid", "device": "", "stage_seconds": {}},
    {"replicate": 6, "stage_seconds": {"import": 0.25}, "weight_bytes": None, "trained": None},
]


def columns_of(read: Any) -> dict[str, Any]:
    """Of a Row or an Entry, so that they can be compared."""
    found = {name: getattr(read, name) for name in entries.COLUMNS if name != "id"}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [made_row(minutes=number, **changes) for number, changes in enumerate(CHANGES)]


@pytest.fixture(scope="module")
def one() -> Entry:
    return from_table(to_table(made_row()))[0]


def expect(found: list[Entry], rows: list[Row]) -> None:
    assert [entry.id for entry in found] == [row_id(vars(row)) for row in rows]
    assert [columns_of(entry) for entry in found] == [columns_of(row) for row in rows]
    for entry, row in zip(found, rows, strict=True):
        expected = float(np.median(row.samples_ns)) if row.samples_ns else math.nan
        assert entry.median_ns == pytest.approx(expected, nan_ok=True)
        assert entry.samples_ns.dtype == entry.misclassified.dtype == np.int64


def test_every_column_but_the_heavy_ones_is_read(rows: list[Row]) -> None:
    expect(from_table(pa.concat_tables(map(to_table, rows))), rows)
    assert set(entries.COLUMNS) <= set(SCHEMA.names)


def test_an_empty_table_has_no_rows() -> None:
    assert from_table(SCHEMA.empty_table()) == []
    assert from_table(pa.Table.from_batches([], of_columns(entries.COLUMNS))) == []


@settings(max_examples=40)
@given(
    cuts=st.lists(st.integers(0, len(CHANGES)), max_size=5), first=st.integers(0, 3), many=st.integers(0, 7)
)
def test_a_table_in_pieces_is_read_the_same(rows: list[Row], cuts: list[int], first: int, many: int) -> None:
    whole = pa.concat_tables(map(to_table, rows)).combine_chunks()
    ends = [0, *sorted(cuts), len(rows)]
    pieces = [whole.slice(start, end - start) for start, end in pairwise(ends)]
    expect(from_table(pa.concat_tables(pieces).slice(first, many)), rows[first : first + many])


def test_rows_without_samples_have_no_median(make_entry: MakeEntry) -> None:
    failed, measured = make_entry(status="failed"), make_entry(samples=[5, 1])
    assert math.isnan(failed.median_ns)
    assert len(failed.samples_ns) == 0
    assert not failed.is_timed
    assert measured.median_ns == 3.0
    assert measured.is_timed
    assert not make_entry(emulated=True).is_timed
    assert not make_entry(status="wrong_output", samples=[5, 1]).is_timed


def test_medians_of_many_rows_are_those_of_each(make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_ROWS_AT_ONCE", 3)
    sizes = [1, 2, 7, 7, 7, 7, 7, 0, 2]
    rows = [
        make_row(replicate=number, samples=[(number * 7 + i * 5) % 11 + 1 for i in range(size)])
        for number, size in enumerate(sizes)
    ]
    expect(from_table(pa.concat_tables(map(to_table, rows))), rows)


def test_what_rows_share_is_there_once(rows: list[Row]) -> None:
    first, *_, last = from_table(pa.concat_tables(map(to_table, rows)))
    assert first.versions is last.versions
    assert first.device_model is last.device_model


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"top1_fraction": 0.8, "top1_n": 5, "misclassified": [3]}, [1, 1, 1, 0, 1]),
        ({"top1_fraction": 0.2, "top1_n": 5, "misclassified": [0, 1, 2, 4]}, [0, 0, 0, 1, 0]),
        ({"top1_fraction": 1.0, "top1_n": 4, "misclassified": []}, [1, 1, 1, 1]),
        ({"top1_fraction": 0.0, "top1_n": 2, "misclassified": [0, 1]}, [0, 0]),
        ({"top1_fraction": 2 / 3, "top1_n": 3, "misclassified": [2]}, [1, 1, 0]),
        ({"top1_fraction": 0.8, "top1_n": 5, "misclassified": []}, None),  # from before they were kept
        ({"top1_fraction": None, "top1_n": None, "misclassified": []}, None),
    ],
)
def test_which_images_were_right(
    make_entry: MakeEntry, changes: dict[str, Any], right: list[int] | None
) -> None:
    correct = make_entry(**changes).correct
    if right is None:
        assert correct is None
    else:
        assert correct is not None
        assert correct.dtype == np.bool_
        assert correct.astype(int).tolist() == right


def test_any_share_of_images_is_known(make_entry: MakeEntry) -> None:
    entry, n = make_entry(), 997
    for wrong in range(n + 1):
        images = np.arange(wrong, dtype=np.int64)
        correct = entry._replace(top1_n=n, top1_fraction=(n - wrong) / n, misclassified=images).correct
        assert correct is not None
        assert correct.sum() == n - wrong


@settings(max_examples=60)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from(["", "d", "e"]),
            st.integers(0, 2),
            st.sampled_from(["aa", "bb"]),
            st.sampled_from(["full", "quick", "failed"]),
        ),
        max_size=8,
    ),
    seed=st.randoms(),
)
def test_the_latest_depend_on_no_order(one: Entry, drawn: list[tuple[Any, ...]], seed: Random) -> None:
    rows = [
        one._replace(
            id=str(number),
            device=device,
            replicate=replicate,
            inputs_key=key,
            publishable=kind == "full" and device != "",
            status="failed" if kind == "failed" or not device else "measured",
            started_at=START + timedelta(minutes=number),
        )
        for number, (device, replicate, key, kind) in enumerate(drawn)
    ]
    kept = latest(rows)
    assert latest(kept) == kept
    seed.shuffle(rows)
    assert {row.id for row in latest(rows)} == {row.id for row in kept}
    assert bool(kept) == bool(rows)
