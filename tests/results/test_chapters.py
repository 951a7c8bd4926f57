"""What chapters of the report say on made rows: fronts, where sparse pays, what is odd, what is covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dlas.results.entries import Entry
from dlas.results.floors import NO_FLOORS
from dlas.results.lines import Line, lines_of
from dlas.results.pages import facts, fronts, times
from dlas.results.pages.page import Chapter, Figure, Table, Text
from dlas.results.places import sections_of
from dlas.results.tables import NONE
from tests.results.made import MakeEntry, replicates

DENSE = "digits/small/dense/fp32/dense/direct/scheduled/x86_avx"
Rows = Callable[..., list[Entry]]


@pytest.fixture
def rows(make_entry: MakeEntry) -> Rows:
    return lambda cell, median_us, wrong=(), **changes: replicates(
        make_entry, cell, median_us, wrong, **changes
    )


def tables(chapter: Chapter) -> list[Table]:
    return [part for part in chapter.parts if isinstance(part, Table)]


def texts(chapter: Chapter) -> str:
    return " ".join(
        f"{part.words} {' '.join(part.items)}" for part in chapter.parts if isinstance(part, Text)
    )


def pruned(level: int, form: str = "csr") -> str:
    return DENSE.replace("dense/fp32/dense", f"weight{level}/fp32/{form}")


def levels(rows: Rows, speeds: dict[int, float]) -> list[Entry]:
    """The dense network takes 1000 us, the pruned ones these."""
    found = rows(DENSE, 1000)
    for level, median_us in speeds.items():
        found += rows(pruned(level), median_us, weight_sparsity_fraction=level / 100)
    return found


@pytest.mark.parametrize(
    ("speeds", "told"),
    [
        ({50: 1500, 80: 900, 95: 300}, "from 80% on; slower at 50%"),
        ({50: 1002, 80: 900}, "from 80% on; undecided at 50%"),
        ({50: 900, 80: 600}, "from 50% or less on"),
        ({50: 1500, 80: 1200}, "not shown: slower at 80%"),
        ({50: 900, 80: 1200, 95: 300}, "from 95% on; slower at 80%"),
    ],
)
def test_sparse_pays_from_the_level_on_from_which_all_are_faster(
    rows: Rows, speeds: dict[int, float], told: str
) -> None:
    chapter = times.sparse_chapter(sections_of(levels(rows, speeds)), NO_FLOORS)
    assert chapter is not None
    ((row,),) = [table.rows for table in tables(chapter)]
    assert row[:5] == ("small", "weight", "direct", "csr", told)
    best = min(speeds.values())
    assert float(row[5].partition("x")[0]) == pytest.approx(1000 / best, rel=0.02)
    assert row[6] == f"{min(speeds, key=speeds.__getitem__)}%"


def test_nothing_sparse_is_no_chapter(rows: Rows) -> None:
    assert times.sparse_chapter(sections_of(rows(DENSE, 1000)), NO_FLOORS) is None
    # Pruned, but dense; and sparse, but with nothing to compare it with.
    assert (
        times.sparse_chapter(sections_of(rows(DENSE, 1000) + rows(pruned(90, "dense"), 900)), NO_FLOORS)
        is None
    )
    assert times.sparse_chapter(sections_of(rows(pruned(90), 100)), NO_FLOORS) is None


def test_a_front_has_what_nothing_beats(rows: Rows) -> None:
    cells = {"a": (100, 40), "b": (200, 20), "c": (300, 30), "d": (400, 20), "e": (500, 5)}
    lines: list[Line] = []
    for name, (median_us, wrong) in cells.items():
        lines += lines_of(rows(DENSE.replace("small", name), median_us, range(wrong)))
    front = fronts.front_of(lines[::-1], lambda line: line.median_ns)
    assert [line.first.model for line in front] == ["a", "b", "e"]


def test_a_point_is_the_fastest_algorithm_of_a_compressed_network(rows: Rows) -> None:
    found = rows(DENSE, 500) + rows(DENSE.replace("direct", "gemm"), 400) + rows(pruned(90), 300)
    (figure,) = [part for part in fronts.chapter(sections_of(found)).parts if isinstance(part, Figure)]
    assert "dense/direct" not in figure.svg
    assert "dense/gemm" in figure.svg
    assert "weight90" in figure.svg


def test_without_accuracy_there_is_no_front(rows: Rows) -> None:
    assert "No row of this sweep has an accuracy." in texts(
        fronts.chapter(sections_of(rows(DENSE, 500, None)))
    )


def test_bars_are_cut_after_the_fastest(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_BARS", 2)
    found = [row for speed, name in enumerate(("direct", "gemm", "spatial_pack"), 1)
             for row in rows(DENSE.replace("direct", name), 100 * speed)]  # fmt: skip
    (figure,) = [part for part in times.bars_chapter(sections_of(found)).parts if isinstance(part, Figure)]
    assert figure.caption.endswith("The 1 slowest line of 3 are left out.")
    assert "spatial_pack" not in figure.svg
    assert "7 more networks" in texts(times.bars_chapter(sections_of(found), left_out=7))


def test_coverage_counts_and_says_why(rows: Rows, make_entry: MakeEntry) -> None:
    gone = [make_entry(cell=pruned(level), status="failed", reason="no\ndevice") for level in (50, 60)]
    chapter = facts.coverage(sections_of([*rows(DENSE, 500), *gone]), [], hidden=3)
    places, reasons = tables(chapter)
    assert places.headings == ("place", "failed", "measured")
    assert places.rows[0][1:] == ("2", "5")
    assert reasons.rows == (("failed", "x86_avx", "2", "no device", pruned(50)),)
    assert reasons.ids == ((gone[0].id,),)
    assert "3 rows of older code" in texts(chapter)


def test_a_status_that_a_place_lacks_is_a_dash(rows: Rows, make_entry: MakeEntry) -> None:
    other = make_entry(
        cell=DENSE.replace("x86_avx", "hikey970_neon"), status="invalid", device="", reason="x"
    )
    places = tables(facts.coverage(sections_of([*rows(DENSE, 500), other]), [], 0))[0]
    assert {row[1:] for row in places.rows} == {("1", NONE), (NONE, "5")}


def test_oddities_name_lines_with_flags(rows: Rows, make_entry: MakeEntry) -> None:
    drifting: dict[str, Any] = {"samples": [500_000 + 1_000 * number for number in range(150)]}
    odd = [make_entry(cell=pruned(90), replicate=number, **drifting) for number in range(2)]
    sections = sections_of([*rows(DENSE, 500), *odd])
    chapter = facts.oddities(sections, sections, NO_FLOORS)
    (table,) = tables(chapter)
    assert [row[0] for row in table.rows] == [pruned(90)]
    assert table.rows[0][1].startswith("2 of 2 processes drift, the furthest by +")
    assert "of 7 processes, 2 drift" in texts(chapter)
    assert "`invoke noise --target x86_avx` does" in texts(chapter)
