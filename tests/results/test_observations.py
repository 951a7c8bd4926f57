"""Observations on rows that were made so that each holds, fails, or cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from dlas.results.entries import Entry
from dlas.results.floors import NO_FLOORS, Floors
from dlas.results.lines import lines_of
from dlas.results.noise import Noise
from dlas.results.observations import (
    OBSERVATIONS,
    Evidence,
    Finding,
    algorithms,
    describe,
    hardware,
    numbers,
    observe,
    optima,
    sizes,
    zeros,
)
from dlas.results.verdict import UNDECIDED, Verdict

IMAGES = 1000
Make = Callable[..., list[Entry]]
Cells = Mapping[str, Any]
HERE, THERE = {"device": "3f2a" * 16}, {"device": "77b0" * 16}


@pytest.fixture
def make(make_entry: Callable[..., Entry]) -> Make:
    """Rows of cells, `model/compression/precision/format/algorithm/tuning`, each with its milliseconds.

    Or with (milliseconds, columns). Five processes of thirty samples: processes differ by half a per cent,
    samples by one. The id of a row is its cell, the first letters of its device, and its number.
    """
    prototype = make_entry(cell="digits/m/dense/fp32/dense/gemm/scheduled/x86_avx")

    def rows(cells: Cells, processes: int = 5, seed: int = 0, **columns: Any) -> list[Entry]:
        found = []
        for cell, told in cells.items():
            ms, own = told if isinstance(told, tuple) else (told, {})
            rng = np.random.default_rng((seed, crc32(cell.encode()), crc32(repr(columns).encode())))
            axes = ("model", "compression", "precision", "format", "algorithm", "tuning")
            named = dict(zip(axes, cell.split("/"), strict=True))
            whole = {"cell": f"digits/{cell}/x86_avx", **named, **columns, **own}
            if "misclassified" in whole:
                wrong = np.array(whole["misclassified"], dtype=np.int64)
                whole |= {"misclassified": wrong, "top1_n": IMAGES, "top1_fraction": 1 - len(wrong) / IMAGES}
            for number in range(processes):
                level = 1e6 * ms * np.exp(0.005 * rng.standard_normal())
                samples = (level * (1 + 0.01 * np.abs(rng.standard_normal(30)))).astype(np.int64)
                row_id = f"{cell} on {whole.get('device', HERE['device'])[:2]}#{number}"
                measured = {"samples_ns": samples, "median_ns": float(np.median(samples))}
                found.append(prototype._replace(id=row_id, replicate=number, **measured, **whole))
        return found

    return rows


def asked(question: Callable[[Evidence], Finding], rows: list[Entry], floors: Floors = NO_FLOORS) -> Finding:
    return question(Evidence(rows, floors))


def cells_of(ids: tuple[str, ...]) -> set[str]:
    """Of which cells these ids are all five rows."""
    cells = {row_id.partition(" on ")[0] for row_id in ids}
    assert len(ids) == len(set(ids)) == 5 * len({row_id.partition("#")[0] for row_id in ids})
    return cells


def weights(
    ms: float, kib: int, parameters: int | None = None, **columns: Any
) -> tuple[float, dict[str, Any]]:
    dense = {} if parameters is None else {"dense_weight_bytes": 4 * parameters}
    return ms, {"weight_bytes": kib << 10, **dense, **columns}


GEMM, DIRECT, PACK = (f"{name}/scheduled" for name in ("gemm", "direct", "spatial_pack"))
DENSE, SHRUNK, WEIGHT = "dense/fp32/dense", "channel@elbow_shrunk/fp32/dense", "weight@elbow/fp32/csr"
ZEROS = "weight@elbow/fp32/dense"


def of_ranks(model: str, tuning: str, direct: float, gemm: float, pack: float) -> dict[str, float]:
    times = {"direct": direct, "gemm": gemm, "spatial_pack": pack}
    return {f"{model}/{DENSE}/{algorithm}/{tuning}": ms for algorithm, ms in times.items()}


def sized(small: float, large: float) -> Cells:
    """A small network in two algorithms, and a large one in two."""
    return {
        f"small/{DENSE}/{GEMM}": weights(small, 100),
        f"small/{DENSE}/{DIRECT}": weights(2 * small, 100),
        f"large/{DENSE}/{GEMM}": weights(3 * large, 400),
        f"large/{DENSE}/{DIRECT}": weights(large, 400),
    }


SIZED = {f"{size}/{DENSE}/{algorithm}" for size in ("small", "large") for algorithm in (GEMM, DIRECT)}


def pruned(weight: float, channel: float, weight_kib: int, channel_kib: int, wrong: int = 20) -> Cells:
    """A network with 20 wrong answers; pruned, all the same but for so many of the pruned weights."""
    own = {"misclassified": range(wrong)}
    return {
        f"m/{DENSE}/{GEMM}": weights(10, 400, misclassified=range(20)),
        f"m/{WEIGHT}/{GEMM}": weights(weight, weight_kib, **own),
        f"m/{SHRUNK}/{GEMM}": weights(channel, channel_kib, misclassified=range(20)),
    }


BOTH_PRUNED = {f"m/{WEIGHT}/{GEMM}", f"m/{SHRUNK}/{GEMM}"}


def shrunk(*ms: float) -> Cells:
    """Networks of 10 ms, without half of their parameters at these times."""
    cells: dict[str, Any] = {}
    for number, each in enumerate(ms):
        cells[f"m{number}/{DENSE}/{GEMM}"] = weights(10, 400, 1000)
        cells[f"m{number}/{SHRUNK}/{GEMM}"] = weights(each, 200, 500)
    return cells


def precise(precision: str, *ms: float) -> Cells:
    cells = {}
    for number, each in enumerate(ms):
        cells[f"m{number}/{DENSE}/{GEMM}"] = 10.0
        cells[f"m{number}/dense/{precision}/dense/{GEMM}"] = each
    return cells


def answered(fast: int, good: int, same: int = 0) -> Cells:
    """A fast configuration with so many wrong answers, a slow one with others, so many of them the same."""
    return {
        f"m/{SHRUNK}/{GEMM}": (5.0, {"misclassified": range(fast)}),
        f"m/{DENSE}/{GEMM}": (10.0, {"misclassified": range(fast - same, fast - same + good)}),
        f"m/{DENSE}/{DIRECT}": (10.5, {"misclassified": range(fast - same, fast - same + good)}),
    }


RANKS = {f"m/{DENSE}/{a}/{t}" for a in ("direct", "gemm", "spatial_pack") for t in ("minimal", "scheduled")}
SWAPPED = of_ranks("m", "minimal", 10, 12, 14) | of_ranks("m", "scheduled", 6, 5, 7)
KEPT = of_ranks("m", "minimal", 10, 12, 14) | of_ranks("m", "scheduled", 5, 6, 7)
CLOSE = of_ranks("m", "minimal", 10, 12, 14) | of_ranks("m", "scheduled", 5, 5, 7)
OTHERS = {f"{m}/{DENSE}/{a}" for m in "ab" for a in (DIRECT, GEMM, PACK)}

# Question, its word, the cells, and those whose rows the first example names.
CASES: list[tuple[Callable[[Evidence], Finding], str, Cells, set[str]]] = [
    (sizes.smaller_is_not_always_faster, "holds", sized(12, 10), SIZED),
    (sizes.smaller_is_not_always_faster, "fails", sized(8, 10), SIZED),
    (sizes.smaller_is_not_always_faster, "undecided", sized(10, 10), SIZED),
    (algorithms.best_algorithm_changes_when_tuned, "holds", SWAPPED, RANKS),
    (algorithms.best_algorithm_changes_when_tuned, "fails", KEPT, RANKS),
    (algorithms.best_algorithm_changes_when_tuned, "undecided", CLOSE, RANKS),
    *(
        (
            algorithms.no_algorithm_is_best_for_all,
            word,
            of_ranks("a", "scheduled", 5, 6, 7) | of_ranks("b", "scheduled", *times),
            OTHERS,
        )
        for word, times in (("holds", (6, 5, 7)), ("fails", (5, 6, 7)), ("undecided", (5, 5, 7)))
    ),
    (sizes.weight_pruning_is_smaller, "holds", pruned(9, 8, 50, 100), BOTH_PRUNED),
    (sizes.weight_pruning_is_smaller, "fails", pruned(9, 8, 100, 50), BOTH_PRUNED),
    (sizes.weight_pruning_is_smaller, "undecided", pruned(9, 8, 50, 50), BOTH_PRUNED),
    (sizes.weight_pruning_is_faster, "holds", pruned(7, 8, 50, 50), BOTH_PRUNED),
    (sizes.weight_pruning_is_faster, "fails", pruned(9, 8, 50, 50), BOTH_PRUNED),
    (sizes.weight_pruning_is_faster, "undecided", pruned(8, 8, 50, 50), BOTH_PRUNED),
    *(
        (
            zeros.zeros_alone_gain_nothing,
            word,
            {f"m/{DENSE}/{GEMM}": 10.0, f"m/{ZEROS}/{GEMM}": ms},
            {f"m/{DENSE}/{GEMM}", f"m/{ZEROS}/{GEMM}"},
        )
        for word, ms in (("holds", 10.0), ("fails", 9.0), ("undecided", 9.5))
    ),
    *(
        (
            zeros.sparse_formats_do_not_always_pay,
            word,
            {f"m/{ZEROS}/{GEMM}": 10.0, f"m/{ZEROS}/{DIRECT}": 15.0, f"m/{WEIGHT}/{GEMM}": ms},
            {f"m/{ZEROS}/{GEMM}", f"m/{ZEROS}/{DIRECT}", f"m/{WEIGHT}/{GEMM}"},
        )
        for word, ms in (("holds", 12.0), ("fails", 5.0), ("undecided", 10.0))
    ),
    (sizes.removed_channels_pay_less, "holds", shrunk(8), {f"m0/{DENSE}/{GEMM}", f"m0/{SHRUNK}/{GEMM}"}),
    (
        sizes.removed_channels_pay_less,
        "holds",
        shrunk(4, 7, 8),
        {f"m2/{DENSE}/{GEMM}", f"m2/{SHRUNK}/{GEMM}"},
    ),
    (sizes.removed_channels_pay_less, "fails", shrunk(4), {f"m0/{DENSE}/{GEMM}", f"m0/{SHRUNK}/{GEMM}"}),
    (sizes.removed_channels_pay_less, "undecided", shrunk(5), {f"m0/{DENSE}/{GEMM}", f"m0/{SHRUNK}/{GEMM}"}),
    *(
        (
            numbers.integers_are_faster,
            word,
            precise("int8", *ms),
            {f"{first}/{DENSE}/{GEMM}", f"{first}/dense/int8/dense/{GEMM}"},
        )
        for word, ms, first in (
            ("holds", (12, 6, 5), "m2"),
            ("fails", (12, 6, 15), "m2"),
            ("undecided", (12, 6), "m1"),
        )
    ),
    *(
        (
            numbers.half_storage_is_not_faster,
            word,
            precise("fp16", *ms),
            {f"{first}/{DENSE}/{GEMM}", f"{first}/dense/fp16/dense/{GEMM}"},
        )
        for word, ms, first in (
            ("holds", (10, 11), "m1"),
            ("fails", (10, 8), "m1"),
            ("undecided", (9.5, 11), "m0"),
        )
    ),
    (
        optima.fastest_is_not_most_accurate,
        "holds",
        answered(80, 30),
        {f"m/{SHRUNK}/{GEMM}", f"m/{DENSE}/{GEMM}"},
    ),
    (
        optima.fastest_is_not_most_accurate,
        "fails",
        answered(31, 30, 30),
        {f"m/{SHRUNK}/{GEMM}", f"m/{DENSE}/{GEMM}"},
    ),
    (
        optima.fastest_is_not_most_accurate,
        "undecided",
        answered(34, 30),
        {f"m/{SHRUNK}/{GEMM}", f"m/{DENSE}/{GEMM}"},
    ),
    (algorithms.tuning_gains_more_than_algorithm, "holds", SWAPPED, RANKS),
    (
        algorithms.tuning_gains_more_than_algorithm,
        "fails",
        of_ranks("m", "minimal", 10, 12, 14) | of_ranks("m", "scheduled", 6, 5, 11),
        RANKS,
    ),
    (
        algorithms.tuning_gains_more_than_algorithm,
        "undecided",
        of_ranks("m", "minimal", 10, 12, 14) | of_ranks("m", "scheduled", 6, 5, 10),
        RANKS,
    ),
]


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", value if isinstance(value, str) else None)


@pytest.mark.parametrize(("question", "word", "cells", "named"), CASES, ids=name_of)
def test_an_observation_on_rows_made_for_it(
    make: Make, question: Callable[[Evidence], Finding], word: str, cells: Cells, named: set[str]
) -> None:
    found = asked(question, make(cells))
    assert found.word == word, found.because
    if word != UNDECIDED:
        assert found.examples[0].word == word
    assert cells_of(found.examples[0].ids) == named
    assert found.because.endswith(f": {found.examples[0].text}.")


SPEEDUPS = {f"m/{DENSE}/{GEMM}": 10.0, f"m/{SHRUNK}/{GEMM}": 5.0}


@pytest.mark.parametrize(("there", "word"), [(7.0, "holds"), (5.0, "fails"), (5.3, "undecided")])
def test_a_speedup_is_compared_across_devices(make: Make, there: float, word: str) -> None:
    rows = make(SPEEDUPS, **HERE) + make({**SPEEDUPS, f"m/{SHRUNK}/{GEMM}": there}, **THERE)
    found = asked(hardware.speedups_depend_on_hardware, rows)
    assert found.word == word, found.because
    assert cells_of(found.examples[0].ids) == set(SPEEDUPS)
    assert len(found.examples[0].ids) == 20


def test_threads_of_one_device_are_no_other_hardware(make: Make) -> None:
    rows = make(SPEEDUPS, **HERE, threads=1) + make(
        {**SPEEDUPS, f"m/{SHRUNK}/{GEMM}": 9.0}, **HERE, threads=2
    )
    found = asked(hardware.speedups_depend_on_hardware, rows)
    assert found.word == UNDECIDED
    assert "all rows are of one device" in found.because


def test_elbows_at_other_levels_are_not_compared_across_devices(make: Make) -> None:
    rows = make(SPEEDUPS, **HERE, level_fraction=0.4) + make(SPEEDUPS, **THERE, level_fraction=0.5)
    found = asked(hardware.speedups_depend_on_hardware, rows)
    assert "no network was measured dense and compressed on two devices alike" in found.because


@pytest.mark.parametrize(
    ("question", "cells"),
    [(question, cells) for question, word, cells, _ in CASES if word == "holds"],
    ids=name_of,
)
def test_four_processes_decide_nothing_of_time(
    make: Make, question: Callable[[Evidence], Finding], cells: Cells
) -> None:
    found = asked(question, make(cells, processes=4))
    if question is sizes.weight_pruning_is_smaller:
        assert found.word == "holds"
    else:
        assert found.word == UNDECIDED
        assert "fewer than 5 processes; `invoke run --replicates 5` adds them" in found.because


def test_without_rows_each_observation_says_what_to_measure() -> None:
    found = observe([], NO_FLOORS)
    assert len({each.statement for each in found}) == len(OBSERVATIONS) == 13
    for each in found:
        assert (each.word, each.examples) == (UNDECIDED, ())
        assert each.because.startswith("Nothing to compare: ")
    assert 'add "minimal" to tuning' in found[1].because


def test_quick_and_emulated_rows_say_nothing(make: Make) -> None:
    question = sizes.smaller_is_not_always_faster
    assert asked(question, make(sized(12, 10))).word == "holds"
    for columns in ({"publishable": False}, {"emulated": True}, {"status": "wrong_output"}):
        assert "Nothing to compare" in asked(question, make(sized(12, 10), **columns)).because


def test_what_is_within_the_noise_of_the_device_is_undecided(make: Make) -> None:
    rows = make(sized(12, 10))
    noise = Noise(0.25, 0.25, 0.25, 1.0, 0.99, 1.01, Verdict(UNDECIDED, 1.0, 0.99, 1.01), 20)
    place = rows[0].device, rows[0].runner, rows[0].threads
    floors = Floors({place: (noise, lines_of(rows)[0])})
    assert asked(sizes.smaller_is_not_always_faster, rows, floors).word == UNDECIDED


def test_one_clear_counterexample_among_many_is_enough(make: Make) -> None:
    cells = dict(sized(12, 10))
    for number in range(12):
        cells[f"other{number}/{DENSE}/{GEMM}"] = weights(20 + 5 * number, 500 + 100 * number)
    found = asked(sizes.smaller_is_not_always_faster, make(cells))
    assert found.word == "holds"
    assert cells_of(found.examples[0].ids) == SIZED
    assert found.because.startswith("So in 1 of ")


def test_the_fastest_of_a_side_counts(make: Make) -> None:
    """The small network is slower in each algorithm that both have, but not in one that only it has."""
    cells = {**sized(12, 10), f"small/{DENSE}/{PACK}": weights(8, 100)}
    assert asked(sizes.smaller_is_not_always_faster, make(cells)).word == "fails"


def test_a_way_that_may_be_the_fastest_leaves_it_undecided(make: Make) -> None:
    """A third way for the small network seems slow, but too few of its processes ran."""
    rows = make(sized(12, 10)) + make({f"small/{DENSE}/{PACK}": weights(13, 100)}, processes=4)
    assert asked(sizes.smaller_is_not_always_faster, rows).word == UNDECIDED


def test_what_has_almost_the_same_bytes_is_not_smaller(make: Make) -> None:
    cells = {f"a/{DENSE}/{GEMM}": weights(12, 95), f"b/{DENSE}/{GEMM}": weights(10, 100)}
    assert "Nothing to compare" in asked(sizes.smaller_is_not_always_faster, make(cells)).because


def test_no_side_wins_by_being_less_accurate(make: Make) -> None:
    """Pruned weights are not shown to lose a point to dense, but to the channels, which gained one."""
    cells = dict(pruned(7, 8, 50, 100, wrong=20))
    own = {"misclassified": range(20, 24)}
    cells[f"m/{WEIGHT}/{GEMM}"] = weights(7, 50, misclassified=range(100, 128))
    cells[f"m/{SHRUNK}/{GEMM}"] = weights(8, 100, **own)
    for question in (sizes.weight_pruning_is_smaller, sizes.weight_pruning_is_faster):
        assert asked(question, make(cells)).word == UNDECIDED
    cells[f"m/{WEIGHT}/{GEMM}"] = weights(7, 50, **own)
    for question in (sizes.weight_pruning_is_smaller, sizes.weight_pruning_is_faster):
        assert asked(question, make(cells)).word == "holds"


def test_what_loses_accuracy_is_not_compared(make: Make) -> None:
    found = asked(sizes.weight_pruning_is_smaller, make(pruned(7, 8, 50, 100, wrong=90)))
    assert "Nothing to compare" in found.because


def test_a_gpu_is_not_asked_about_half_storage(make: Make) -> None:
    found = asked(numbers.half_storage_is_not_faster, make(precise("fp16", 5), gpu="OpenCL, Mali"))
    assert "on a CPU" in found.because
    assert found.examples == ()


def test_a_line_without_accuracy_may_be_the_most_accurate(make: Make) -> None:
    cells = {**answered(80, 30), f"m/{WEIGHT}/{GEMM}": 1.0}
    found = asked(optima.fastest_is_not_most_accurate, make(cells))
    assert found.word == UNDECIDED
    assert f"m/{WEIGHT}/{GEMM}" in cells_of(found.examples[0].ids)


SEEDS, FALSE = 60, 3


def many(network: str, number: int, kib: int) -> Cells:
    """A network of 10 ms, in so many ways to compute it."""
    return {f"{network}/a{i}/scheduled": weights(10, kib) for i in range(number)}


@pytest.mark.parametrize(
    ("question", "cells"),
    [
        (
            sizes.smaller_is_not_always_faster,
            {f"m{number}/{DENSE}/{GEMM}": weights(10, 100 * 2**number) for number in range(8)},
        ),
        (
            algorithms.best_algorithm_changes_when_tuned,
            {
                cell: 10.0
                for n in range(3)
                for t in ("minimal", "tuned")
                for cell in of_ranks(f"m{n}", t, 1, 1, 1)
            },
        ),
        (
            algorithms.no_algorithm_is_best_for_all,
            {
                cell: 10.0
                for n in range(3)
                for t in ("minimal", "tuned")
                for cell in of_ranks(f"m{n}", t, 1, 1, 1)
            },
        ),
    ],
    ids=name_of,
)
def test_where_nothing_differs_at_most_one_in_twenty_holds(
    make: Make, question: Callable[[Evidence], Finding], cells: Cells
) -> None:
    """Of many comparisons."""
    words = [asked(question, make(cells, seed=seed)).word for seed in range(SEEDS)]
    assert words.count("holds") <= FALSE


@pytest.mark.parametrize(
    ("question", "winner", "loser", "word"),
    [
        (sizes.smaller_is_not_always_faster, f"l/{DENSE}", f"s/{DENSE}", "holds"),
        (sizes.smaller_is_not_always_faster, f"s/{DENSE}", f"l/{DENSE}", "fails"),
    ],
)
def test_what_was_chosen_among_many_needs_a_wider_margin(
    make: Make, question: Callable[[Evidence], Finding], winner: str, loser: str, word: str
) -> None:
    kib = {f"s/{DENSE}": 100, f"l/{DENSE}": 200}
    cells = many(winner, 1, kib[winner]) | {f"{loser}/a0/scheduled": weights(10.2, kib[loser])}
    assert asked(question, make(cells)).word == word
    others = {f"{winner}/b{i}/scheduled": weights(11, kib[winner]) for i in range(30)}
    assert asked(question, make({**cells, **others})).word == UNDECIDED


def test_among_many_more_are_contenders(make: Make) -> None:
    best, second = (f"m/{DENSE}/{name}/scheduled" for name in ("a0", "a1"))
    others = {f"m/{DENSE}/b{i}/scheduled": 12.0 for i in range(30)}
    found = []
    for cells in ({best: 10.0, second: 10.25}, {best: 10.0, second: 10.25, **others}):
        evidence = Evidence(make(cells), NO_FLOORS)
        lines = evidence.contenders(evidence.places[0].lines, 0.05)
        found.append({"/".join(line.first.cell.split("/")[1:-1]) for line in lines})
    assert found == [{best}, {best, second}]


def test_one_pair_among_many_needs_a_wider_margin(make: Make) -> None:
    """Of tuned and untuned lines, where one tuned line is a little slower than one of the untuned."""
    question = algorithms.tuning_gains_more_than_algorithm
    words = []
    for ways in (2, 12):
        untuned = {f"m/{DENSE}/a{i}/minimal": 10.0 if i == 0 else 14.0 for i in range(ways)}
        tuned = {f"m/{DENSE}/a{i}/scheduled": 10.3 if i == 0 else 6.0 for i in range(ways)}
        words.append(asked(question, make(untuned | tuned)).word)
    assert words == ["fails", UNDECIDED]


def test_where_no_accuracy_differs_at_most_one_in_twenty_holds(make: Make) -> None:
    """Of ten networks that are wrong on a twentieth of the images each, the most accurate has luck."""
    rng = np.random.default_rng(0)
    words = []
    for seed in range(SEEDS):
        wrong = [np.flatnonzero(rng.random(IMAGES) < 0.05) for _ in range(10)]
        cells = {f"m{n}/{DENSE}/{GEMM}": (10 + n, {"misclassified": each}) for n, each in enumerate(wrong)}
        words.append(asked(optima.fastest_is_not_most_accurate, make(cells, seed=seed)).word)
    assert words.count("holds") <= FALSE


@pytest.mark.parametrize(
    ("question", "cells"),
    [
        (
            zeros.zeros_alone_gain_nothing,
            {f"m{n}/{form}/{GEMM}": ms for n in range(12) for form, ms in ((DENSE, 10.0), (ZEROS, 9.5))},
        ),
        (
            algorithms.tuning_gains_more_than_algorithm,
            of_ranks("m", "minimal", 9, 9, 9) | of_ranks("m", "scheduled", 9, 9, 9),
        ),
    ],
    ids=name_of,
)
def test_where_a_statement_is_just_true_at_most_one_in_twenty_fails(
    make: Make, question: Callable[[Evidence], Finding], cells: Cells
) -> None:
    words = [asked(question, make(cells, seed=seed)).word for seed in range(SEEDS)]
    assert words.count("fails") <= FALSE


@pytest.mark.parametrize("ratio", [0.95, 1 / 0.95])
def test_a_speedup_that_just_does_not_differ_is_seldom_found_to(make: Make, ratio: float) -> None:
    there = {**SPEEDUPS, f"m/{SHRUNK}/{GEMM}": 5 * ratio}
    pairs = [make(SPEEDUPS, seed=seed, **HERE) + make(there, seed=seed, **THERE) for seed in range(SEEDS)]
    words = [asked(hardware.speedups_depend_on_hardware, rows).word for rows in pairs]
    assert words.count("holds") <= FALSE
    assert words.count("fails") <= FALSE


def test_the_text_has_word_reason_and_rows(make: Make) -> None:
    (found,) = [each for each in observe(make(SWAPPED), NO_FLOORS) if "changes when" in each.statement]
    text = describe([found])
    head, because, example, ids, *_ = text.splitlines()
    assert head == "holds: The best algorithm changes when its schedule is tuned."
    assert because.startswith("  So in 1 of 1 comparison, not so in 0, undecided in 0. The clearest: ")
    assert "minimal: direct is the fastest, gemm takes 1.2" in example
    assert "; scheduled: gemm is the fastest, direct takes 1.2" in example
    assert f"m/{DENSE}/gemm/minimal on 3f#4" in ids
