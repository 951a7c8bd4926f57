"""Which configuration is taken: the fastest within the bound, and what stays open."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from dlas.results.choice import UNKNOWN, Choice, choose
from dlas.results.lines import Line, lines_of
from dlas.results.verdict import FASTER, SLOWER, UNDECIDED
from tests.results.made import MakeEntry, replicates

DENSE = "digits/small/dense/fp32/dense/direct/scheduled/x86_avx"
GEMM = DENSE.replace("direct", "gemm")
PRUNED = DENSE.replace("small/dense", "small/channel@elbow_shrunk")
INT8 = DENSE.replace("fp32", "int8")
WIDE = DENSE.replace("small", "wide")


@pytest.fixture
def line(make_entry: MakeEntry):
    def make(cell: str, median_us: float, wrong: Iterable[int] | None = (), **changes: object) -> Line:
        (found,) = lines_of(replicates(make_entry, cell, median_us, wrong, **changes))
        return found

    return make


def cells(candidates: Iterable) -> list[str]:
    return [each.line.first.cell for each in candidates]


def best(choice: Choice) -> str:
    assert choice.best is not None
    return choice.best.line.first.cell


def test_the_fastest_that_holds_the_bound_is_taken(line) -> None:
    lines = [line(DENSE, 900), line(PRUNED, 300, range(30)), line(INT8, 400, [7]), line(GEMM, 1000)]
    choice = choose(lines, 0.02)
    assert best(choice) == INT8
    assert choice.best is not None
    assert choice.best.verdict is None
    assert cells(choice.runners_up) == [DENSE, GEMM]
    assert [each.verdict.word for each in choice.runners_up if each.verdict] == [SLOWER, SLOWER]
    assert cells(choice.failing) == [PRUNED]
    assert choice.faster == choice.equals == ()
    assert best(choose(lines, 0.2)) == PRUNED


def test_what_the_images_cannot_tell_stays_open(line) -> None:
    choice = choose([line(DENSE, 900), line(INT8, 400, [1, 2, 3])], 0.01)
    assert best(choice) == DENSE
    (faster,) = choice.faster
    assert cells([faster]) == [INT8]
    assert faster.accuracy is not None
    assert faster.accuracy.reason.startswith("undecided on 360 images; about ")
    assert faster.verdict is not None
    assert faster.verdict.word == FASTER


def test_what_is_open_and_slower_is_of_no_interest(line) -> None:
    choice = choose([line(DENSE, 300), line(INT8, 400, [1, 2, 3])], 0.01)
    assert best(choice) == DENSE
    assert choice.faster == choice.runners_up == ()


def test_equals_cannot_be_told_apart(line) -> None:
    choice = choose([line(DENSE, 500), line(GEMM, 502), line(PRUNED, 800)], 0.01)
    assert {best(choice), *cells(choice.equals)} == {DENSE, GEMM}
    assert [each.verdict.word for each in choice.runners_up if each.verdict] == [UNDECIDED, SLOWER]


def test_noise_of_the_device_makes_equals(line) -> None:
    lines = [line(DENSE, 500), line(GEMM, 560)]
    assert choose(lines, 0.01).equals == ()
    assert cells(choose(lines, 0.01, noise_fraction=0.2).equals) == [GEMM]


def test_the_reference_is_the_most_accurate_dense_network(line) -> None:
    lines = [line(DENSE, 500, range(40)), line(WIDE, 5000, [3]), line(PRUNED, 100, range(40))]
    choice = choose(lines, 0.01)
    assert choice.reference is lines[1]
    assert best(choice) == WIDE
    alone = choose([lines[0], lines[2]], 0.01)
    assert alone.reference is lines[0]
    assert best(alone) == PRUNED


def test_a_quick_look_is_no_candidate(line) -> None:
    choice = choose([line(DENSE, 500), line(GEMM, 100, publishable=False)], 0.01)
    assert best(choice) == DENSE
    assert not choice.runners_up


def test_without_accuracy_nothing_is_taken(line) -> None:
    choice = choose([line(DENSE, 500, None), line(GEMM, 400, None)], 0.01)
    assert choice.reference is choice.best is None
    assert cells(choice.faster) == [GEMM, DENSE]
    assert {each.word for each in choice.faster} == {UNKNOWN}


def test_other_images_are_not_paired(line) -> None:
    choice = choose([line(DENSE, 500), line(INT8, 100, [1], dataset_sha256="ee" * 32)], 0.02)
    assert choice.best is not None
    (other,) = [each for each in (*choice.faster, choice.best) if each.line.first.cell == INT8]
    assert other.accuracy is not None
    assert not other.accuracy.difference.is_paired


def test_no_line_is_no_choice() -> None:
    choice = choose([], 0.01)
    assert choice.best is choice.reference is None
