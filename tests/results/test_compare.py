"""Two sides: how they are named, which lines make pairs, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dlas.errors import StorageError, UsageError
from dlas.results import compare, store
from dlas.results.compare import describe, parse
from dlas.results.floors import NO_FLOORS
from dlas.results.verdict import FASTER, SLOWER, UNDECIDED
from dlas.values import Row
from tests.results.made import replicates

DIRECT = "digits/small/dense/fp32/dense/direct/scheduled/x86_avx"
GEMM = DIRECT.replace("direct", "gemm")
CSR = DIRECT.replace("small/dense/fp32/dense", "small/weight@elbow/fp32/csr")


@pytest.fixture
def keep(tmp_path: Path, make_row: Callable[..., Row]) -> Callable[..., None]:
    """Store five processes of a cell around a median in microseconds."""

    def store_rows(cell: str, median_us: float, **changes: object) -> None:
        for row in replicates(make_row, cell, median_us, **changes):  # type: ignore[arg-type]
            store.write(tmp_path, row)  # type: ignore[arg-type]

    return store_rows


def pairs(root: Path, a: str, b: str, sweep: str = "smoke") -> dict[str, str]:
    found = compare.compare(root, parse(a, sweep), parse(b, sweep), NO_FLOORS)
    return {pair.a.first.cell: pair.verdict.word for pair in found.pairs}


def test_a_side_is_words() -> None:
    side = parse("digits,algorithm=direct,commit=1f89", "")
    assert (side.sweep, dict(side.columns)) == ("digits", {"algorithm": "direct", "commit": "1f89"})
    assert str(side) == "digits,algorithm=direct,commit=1f89"
    assert parse("algorithm=direct", "smoke").sweep == "smoke"


@pytest.mark.parametrize(
    ("text", "sweep", "told"),
    [
        ("digits,algoritm=direct", "", "did you mean algorithm?"),
        ("digits,colour=red", "", "columns are dataset"),
        ("digits,algorithm=", "", "chooses nothing"),
        ("algorithm=gemm", "", "names no sweep"),
    ],
)
def test_words_that_choose_nothing(text: str, sweep: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        parse(text, sweep)


def test_two_algorithms(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500)
    keep(GEMM, 700)
    keep(DIRECT.replace("small", "wide"), 900)
    keep(GEMM.replace("small", "wide"), 600)
    keep(CSR, 100)
    found = compare.compare(
        tmp_path, parse("algorithm=direct", "smoke"), parse("algorithm=gemm", "smoke"), NO_FLOORS
    )
    assert [(pair.a.first.model, pair.verdict.word) for pair in found.pairs] == [
        ("small", FASTER),
        ("wide", SLOWER),
    ]
    assert found.pairs[0].verdict.ratio == pytest.approx(5 / 7, rel=0.02)
    assert found.alone == (1, 0)
    text = describe(found)
    assert "2 pairs: A is 1 faster, 1 slower, 0 undecided" in text
    assert "without a partner: 1 of A, 0 of B" in text
    for pair in found.pairs:
        assert all(each in text for each in (*pair.a.ids, *pair.b.ids))


def test_two_commits_of_the_same_cells(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500, commit="aaaa" * 10, inputs_key="11" * 32)
    keep(DIRECT, 400, commit="bbbb" * 10, inputs_key="22" * 32)
    # The rows of the older commit no longer count, but are what was asked for.
    assert pairs(tmp_path, "commit=aaaa", "commit=bbbb") == {DIRECT: SLOWER}


def test_two_sweeps(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500)
    keep(DIRECT, 501, sweep="other")
    assert pairs(tmp_path, "smoke", "other") == {DIRECT: UNDECIDED}


def test_devices_are_compared_only_when_asked(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500)
    keep(GEMM, 300, device="77" * 32)
    with pytest.raises(UsageError, match="no cell in common"):
        pairs(tmp_path, "algorithm=direct", "algorithm=gemm")
    keep(DIRECT, 250, device="77" * 32)
    assert pairs(tmp_path, "device=7777", "device=3f2a") == {DIRECT: FASTER}


def test_two_targets_are_on_two_devices(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500)
    keep(DIRECT.replace("x86_avx", "hikey970_neon"), 5000, device="77" * 32, runner="docker", threads=4)
    assert pairs(tmp_path, "target=x86_avx", "target=hikey970_neon") == {DIRECT: FASTER}


def test_many_lines_on_a_side_are_no_pair(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500)
    keep(CSR, 200)
    keep(CSR.replace("csr", "csr_packed"), 100)
    with pytest.raises(UsageError, match="several lines; name columns"):
        pairs(tmp_path, "compression=dense", "compression=weight@elbow,format=csr*")
    assert pairs(tmp_path, "compression=weight@elbow,format=csr", "compression=dense,format=dense") == {
        CSR: FASTER
    }


@pytest.mark.parametrize(
    ("side", "told"),
    [
        ("algorithm=winograd", "no row of smoke has algorithm=winograd; there are direct"),
        ("nothing,algorithm=direct", "sweep 'nothing' has no results; those with results: smoke"),
        ("commit=ffff", "no row of smoke has commit=ffff; there are none"),
    ],
)
def test_a_side_without_rows_says_what_there_is(
    tmp_path: Path, keep: Callable[..., None], side: str, told: str
) -> None:
    keep(DIRECT, 500)
    with pytest.raises(UsageError, match=told):
        pairs(tmp_path, side, "algorithm=direct")


def test_the_mean_of_the_ratios_covers_what_is_true(tmp_path: Path, keep: Callable[..., None]) -> None:
    for number in range(6):
        keep(DIRECT.replace("small", f"n{number}"), 500 + number)
        keep(GEMM.replace("small", f"n{number}"), 700 + number)
    sides = parse("algorithm=direct", "smoke"), parse("algorithm=gemm", "smoke")
    found = compare.compare(tmp_path, *sides, NO_FLOORS)
    low, ratio, high = compare.mean_ratio(found.pairs)
    assert low < 5 / 7 < high
    assert low < ratio < high
    # Twelve configurations together tell more than two: a pair's interval is wider by about the root of 6.
    each = [pair.verdict.high - pair.verdict.low for pair in found.pairs]
    assert 2 < min(each) / (high - low) < 8


def test_a_damaged_file_is_no_missing_row(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500)
    keep(GEMM, 700)
    path = sorted(tmp_path.rglob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(StorageError, match="is damaged"):
        pairs(tmp_path, "algorithm=direct", "algorithm=gemm")


def test_few_processes_decide_nothing(tmp_path: Path, keep: Callable[..., None]) -> None:
    keep(DIRECT, 500, processes=4)
    keep(GEMM, 5000, processes=4)
    found = compare.compare(
        tmp_path, parse("algorithm=direct", "smoke"), parse("algorithm=gemm", "smoke"), NO_FLOORS
    )
    assert found.pairs[0].verdict.word == UNDECIDED
    assert "undecided (4 of 5 processes)" in describe(found)
