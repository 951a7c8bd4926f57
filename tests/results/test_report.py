from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from dlas.results import report, store
from dlas.results.entries import Entry, latest
from dlas.results.places import sections_of
from dlas.results.report import describe, render
from dlas.values import Row

MakeRow = Callable[..., Row]
MakeEntry = Callable[..., Entry]
GEMM = "cifar10/resnet18/dense/fp32/dense/gemm/scheduled/x86_avx"
DIRECT = GEMM.replace("gemm", "direct")
OTHER_MODEL = GEMM.replace("resnet18", "vgg16")


def rendered(rows: list[Entry], width: int | None = None) -> str:
    return render(sections_of(rows), width)


def told(artifacts: Path) -> str:
    stored = store.read(artifacts, "smoke")
    counting = latest(stored.rows)
    return describe(sections_of(counting), stored.problems, len(stored.rows) - len(counting))


def around(median_ns: int, count: int = 150) -> list[int]:
    """Samples 1 us apart."""
    return [median_ns + 1_000 * i - 500 * (count - 1) for i in range(count)]


def line_of(text: str, *words: str) -> str:
    """The one line that holds all these words."""
    (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return line


def test_fastest_comes_first_and_is_the_measure(make_entry: MakeEntry) -> None:
    rows = [
        make_entry(cell=DIRECT, samples=around(15_000_000), trained=True),
        make_entry(cell=GEMM, samples=around(10_000_000), trained=True, fallbacks=["conv2d_7"]),
    ]
    heading, gemm, direct = rendered(rows).splitlines()[1:4]
    assert heading.split() == [
        "median",
        "ms",
        "IQR",
        "95%",
        "interval",
        "ratio",
        "runs",
        "max",
        "error",
        "status",
        "cell",
    ]
    median, iqr, low, _, high, *rest = gemm.split()
    assert (median, iqr) == ("10.000", "0.074")
    assert 9.97 < float(low) < 10.0 < float(high.rstrip("*")) < 10.03
    assert high.endswith("*")
    assert rest == ["1.00x", "1x150", "2.5e-07", "measured,", "1", "fallback", GEMM]
    assert direct.split()[5:] == ["1.50x", "1x150", "2.5e-07", "measured", DIRECT]


def test_accuracy_comes_with_its_number_of_images_and_interval(make_entry: MakeEntry) -> None:
    digits = make_entry(trained=True, top1_fraction=354 / 360, top1_n=360)
    assert "  98.3% (96.4% .. 99.2%) of 360  " in line_of(rendered([digits]), GEMM)
    imagenet = make_entry(trained=True, top1_fraction=0.76, top5_fraction=0.929, top1_n=1000)
    assert "76.0% (73.3% .. 78.5%) of 1000, top-5 92.9%" in line_of(rendered([imagenet]), GEMM)


def test_accuracy_fits_on_a_narrow_terminal(make_entry: MakeEntry) -> None:
    narrow = rendered([make_entry(trained=True, top1_fraction=0.95, top1_n=20)], width=80)
    assert line_of(narrow, GEMM) == f"  {GEMM}  top-1 95.0% (76.4% .. 99.1%) of 20"
    assert line_of(narrow, "1x150").endswith("2.5e-07  measured")


def test_the_time_of_the_stages_is_at_the_end(make_entry: MakeEntry) -> None:
    assert (
        rendered([make_entry()]).splitlines()[-1]
        == "time: import 1.0 s, lower 0.5 s, compile 1.5 s, link 0.2 s"
    )


def test_all_numbers_of_a_section_have_one_unit(make_entry: MakeEntry) -> None:
    text = rendered(
        [make_entry(samples=around(200_000)), make_entry(cell=OTHER_MODEL, samples=around(3_000_000))]
    )
    assert "median us" in text
    assert line_of(text, GEMM).split()[0] == "200.000"
    assert line_of(text, OTHER_MODEL).split()[0] == "3000.000"


def test_impossible_times_are_shown(make_entry: MakeEntry) -> None:
    assert line_of(rendered([make_entry(samples=[0] * 150)]), GEMM).split()[:2] == ["0.000", "0.000"]


def test_models_do_not_compete(make_entry: MakeEntry) -> None:
    text = rendered(
        [make_entry(samples=around(5_000_000)), make_entry(cell=OTHER_MODEL, samples=around(50_000_000))]
    )
    assert "1.00x" in line_of(text, GEMM)
    assert "1.00x" in line_of(text, OTHER_MODEL)


@pytest.mark.parametrize("place", [{"runner": "docker"}, {"device": "77" * 32}, {"threads": 1}])
def test_places_do_not_compete(make_entry: MakeEntry, place: dict[str, object]) -> None:
    text = rendered([make_entry(samples=around(5_000_000)), make_entry(samples=around(9_000_000), **place)])
    assert text.count("x86_avx on ") == 2
    assert text.count("1.00x") == 2


def test_a_gpu_is_named_with_its_timer(make_entry: MakeEntry) -> None:
    failed = make_entry(status="failed", cell=OTHER_MODEL, timer="events")
    text = rendered([make_entry(gpu="CUDA, Xavier, sm_72, driver for CUDA 11.4", timer="events"), failed])
    assert text.splitlines()[0] == (
        "x86_avx on CUDA, Xavier, sm_72, driver for CUDA 11.4 (3f2a3f2a3f2a), local runner, 2 threads, "
        "timed by its driver's events"
    )


def test_replicates_share_a_line_and_five_make_an_interval(make_entry: MakeEntry) -> None:
    rows = [make_entry(replicate=i, samples=around((10 + i) * 1_000_000)) for i in range(5)]
    few, many = rendered(rows[:4]), rendered(rows)
    assert " 4x150 " in line_of(few, GEMM)
    assert "*" in line_of(few, GEMM)
    assert "fewer than 5 processes" in few
    assert " 5x150 " in line_of(many, GEMM)
    assert "*" not in many
    assert line_of(many, GEMM).split()[0] == "12.000"


def test_row_that_is_not_publishable_says_so_and_is_no_measure(make_entry: MakeEntry) -> None:
    text = rendered(
        [make_entry(samples=around(10_000_000)), make_entry(cell=DIRECT, samples=around(5_000_000, 4))]
    )
    quick = line_of(text, DIRECT)
    assert "0.50x    1x4 " in quick
    assert "not publishable (4 of 150)" in quick
    assert " -  " in quick  # no interval from so few
    assert "not publishable" not in line_of(text, GEMM)
    alone = rendered([make_entry(samples=around(5_000_000, 5))])
    assert "1.00x" in line_of(alone, GEMM)
    unfit = rendered([make_entry(publishable=False)])
    assert "not publishable" in line_of(unfit, GEMM)


def test_what_did_not_run_gives_its_reason(make_entry: MakeEntry) -> None:
    rows = [
        make_entry(),
        make_entry(
            cell=DIRECT, status="wrong_output", reason="error over scale 0.3, tolerance 1e-4", replicate=1
        ),
        make_entry(cell=OTHER_MODEL, status="failed", reason="died\n\x1b[31mof signal 11"),
    ]
    text = rendered(rows)
    assert line_of(text, "wrong_output ").endswith(
        f"{DIRECT} (replicate 1): error over scale 0.3, tolerance 1e-4"
    )
    assert line_of(text, "failed ").endswith(f"{OTHER_MODEL}: died  [31mof signal 11")
    assert "3 rows: 1 failed, 1 measured, 1 wrong_output" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_emulated_rows_have_a_place_of_their_own_and_no_times(make_entry: MakeEntry) -> None:
    emulated = make_entry(cell=DIRECT, status="emulated", emulated=True, samples=around(777_000_000))
    text = rendered([emulated, make_entry(max_error_over_scale=3e-7)])
    real, unreal, _ = text.split("\n\n")
    assert GEMM in real
    assert DIRECT not in real
    assert "the times mean nothing" in unreal
    assert "777" not in text


def test_emulated_row_is_never_timed_whatever_its_status(make_entry: MakeEntry) -> None:
    text = rendered([make_entry(emulated=True, samples=around(777_000_000))])
    assert "median" not in text
    assert "777" not in text


def test_invalid_row_that_names_no_device_is_shown(make_entry: MakeEntry) -> None:
    row = make_entry(
        status="invalid", reason="no float16 here", device="", device_model="", runner="", threads=0
    )
    assert rendered([row]).splitlines()[:2] == [
        "x86_avx, no device",
        f"  invalid       {GEMM}: no float16 here",
    ]


def test_nan_error_stays_visible(make_entry: MakeEntry) -> None:
    rows = [make_entry(), make_entry(replicate=1, max_error_over_scale=math.nan)]
    assert " nan " in line_of(rendered(rows), GEMM)
    assert " nan " in line_of(rendered(rows[::-1]), GEMM)


def test_wide_text_has_a_line_for_each_cell_and_narrow_text_cuts_nothing(make_entry: MakeEntry) -> None:
    rows = [make_entry(), make_entry(cell=DIRECT)]
    wide, narrow = rendered(rows), rendered(rows, width=80)
    assert rendered(rows, width=200) == wide
    for cell in (GEMM, DIRECT):
        assert line_of(wide, cell, "measured, untrained")
        assert line_of(narrow, cell).strip() == cell
    table = [line for line in narrow.splitlines() if "median" in line or "1x150" in line]
    assert len(table) == 3
    assert max(map(len, table)) <= 88
    assert [line for line in narrow.splitlines() if line != line.rstrip()] == []


def test_report_hides_older_code_and_names_damaged_files(tmp_path: Path, make_row: MakeRow) -> None:
    old = make_row(samples=around(20_000_000), inputs_key="aa" * 32)
    new = make_row(samples=around(10_000_000), minutes=1)
    damaged = store.write(tmp_path, make_row(cell=DIRECT))
    damaged.write_bytes(b"PAR1")
    for row in (old, new):
        store.write(tmp_path, row)
    text = told(tmp_path)
    assert line_of(text, GEMM).split()[0] == "10.000"
    assert "not shown: 1 row of older code" in text
    assert "delete it and run the sweep again" in line_of(text, f"not read: {damaged}")
    assert text == text.rstrip()

    store.write(tmp_path, dataclasses.replace(old, started_at=make_row(minutes=2).started_at))
    assert line_of(told(tmp_path), GEMM).split()[0] == "20.000"


def test_report_of_damaged_files_only(tmp_path: Path, make_row: MakeRow) -> None:
    store.write(tmp_path, make_row()).write_bytes(b"")
    assert told(tmp_path).startswith("not read: ")


def test_a_tuned_row_says_what_its_search_came_to(make_entry: MakeEntry) -> None:
    tuned = make_entry(cell=GEMM.replace("scheduled", "tuned"), tuning_trials=1200, tuned_fraction=0.95)
    text = rendered([tuned, make_entry(cell=GEMM, samples=around(15_000_000))])
    assert "95% tuned in 1,200 trials" in line_of(text, "gemm/tuned")
    assert "tuned" not in line_of(text, "gemm/scheduled")


def test_of_many_lines_the_fastest_are_shown(make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_SHOWN", 4)
    monkeypatch.setattr(report, "_LEAST_SHOWN", 1)
    rows = [
        make_entry(cell=cell.replace("fp32", f"fp{bits}"), samples=around(bits * 1_000_000))
        for cell in (GEMM, OTHER_MODEL)
        for bits in (16, 32, 64)
    ]
    text = rendered(rows)
    assert "fp16" in text
    assert "fp32" in text
    assert "fp64" not in text
    assert "2 slower lines not shown; `--only` chooses" in text
