"""Cells of boards whose processor this machine imitates, from a sweep's file to the report, over ssh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlas import pipeline, publishing, sweep
from dlas.errors import EngineError, TargetError, UsageError
from dlas.hardware import targets
from dlas.measurement.measure import TOLERANCE
from dlas.progress import Progress
from dlas.trial import Settings
from dlas.values import ContainerImage, Row, Target
from tests.integration.board import Board
from tests.integration.images import image_of
from tests.stored import stored_rows

pytestmark = [pytest.mark.docker, pytest.mark.board, pytest.mark.qemu, pytest.mark.aarch64]

SWEEP = """
description = "a test"
[axes]
dataset = ["cifar10"]
model = ["narrow"]
compression = ["dense"]
precision = ["fp32"]
format = ["dense"]
algorithm = ["gemm"]
tuning = ["scheduled"]
[[include]]
compression = "uniform90"
format = "csr"
algorithm = "direct"
[[include]]
precision = "int8"
[models.narrow]
factory = "dlas.models.resnet:resnet18"
arguments = { width = 8 }
input_shape = [1, 3, 32, 32]
"""
DENSE = "*/dense/fp32/*"


@pytest.fixture(scope="module")
def hikey(artifacts: Path) -> Iterator[tuple[Target, ContainerImage]]:
    with image_of("hikey970_neon", artifacts) as found:
        yield found


@pytest.fixture(scope="module")
def xavier(artifacts: Path) -> Iterator[tuple[Target, ContainerImage]]:
    with image_of("xavier_neon", artifacts) as found:
        yield found


Run = Callable[..., list[Row]]


@pytest.fixture
def run(tmp_path: Path, root: Path, standing_board: Board, machine_lock: str) -> Run:
    """Runs cells of a sweep of a narrow network on a target, emulated on the board unless told otherwise."""
    path = tmp_path / "trial.toml"
    path.write_text(SWEEP)

    def run_sweep(target: Target, only: str = "*", **settings: Any) -> list[Row]:
        planned = sweep.select(sweep.expand(sweep.load(str(path)), [target]), only)
        how = {"device": standing_board.host, "emulate": True, "repeats": 2, "threads": 1, **settings}
        with Progress() as progress:
            rows = pipeline.run_sweep(planned, Settings("trial", root, **how), progress)
        pipeline.check(rows, root)
        return rows

    return run_sweep


def check(row: Row, image: ContainerImage) -> None:
    """That it is the row of an emulated network with the right output, and claims nothing more."""
    assert (row.status, row.reason, row.emulated, row.publishable) == ("emulated", "", True, False)
    assert (row.runner, row.threads, len(row.samples_ns)) == ("docker", 1, 2)
    assert (row.image_id, row.stand_in) == (image.id, image.stand_in)
    assert row.device_model.startswith("an emulator on ")
    assert row.max_error_over_scale is not None
    assert 0 <= row.max_error_over_scale <= TOLERANCE[row.precision]
    assert row.fallbacks == []
    assert row.ops_as_asked == row.ops_total > 0


def test_a_board_that_is_emulated_is_checked_and_kept_apart_from_real_ones(
    run: Run,
    hikey: tuple[Target, ContainerImage],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target, image = hikey
    rows = run(target)
    said = capsys.readouterr().out
    assert "aarch64 is emulated on x86_64: only outputs count" in said
    for row in rows:
        check(row, image)
        assert row.target == "hikey970_neon"
    dense, sparse, integers = rows
    assert (dense.arithmetic, dense.ops_sparse, dense.oracle) == ("float32", 0, "pytorch")
    assert (sparse.format, sparse.ops_sparse) == ("csr", sparse.ops_total)
    assert 0.85 < sparse.weight_sparsity_fraction < 0.92
    assert (integers.precision, integers.ops_integer, integers.oracle) == ("int8", 20, "onnxruntime")
    assert integers.arithmetic.startswith("8-bit")
    assert len({row.artifact_sha256 for row in rows}) == 3

    (real,) = run(targets.load("x86"), DENSE, device="", emulate=False, runner="local", repeats=4)
    assert (real.status, real.emulated, real.stand_in) == ("measured", False, False)
    real_part, emulated_part, totals = publishing.tell("trial", root, {}).split("\n\n", 2)
    assert real_part.startswith("x86_avx on ")
    assert "1.00x" in real_part
    assert "emulated" not in real_part
    heading, *lines = emulated_part.splitlines()
    assert heading.startswith("hikey970_neon on an emulator on ")
    assert heading.endswith("emulated: only the output was checked, the times mean nothing")
    assert len(lines) == 3
    assert all(line.strip().startswith("emulated") for line in lines)
    assert not [line for line in lines if "x  " in line or " ms" in line or "±" in line]
    assert "4 rows: 3 emulated, 1 measured" in totals

    def measured_again(*_: object) -> None:
        raise AssertionError("it has a row")

    monkeypatch.setattr(pipeline, "measure", measured_again)
    assert run(target) == rows
    assert capsys.readouterr().out.count("emulated, cached") == 3
    assert len(stored_rows(root, "trial")) == 4


def test_a_board_on_a_stand_in_says_so(run: Run, xavier: tuple[Target, ContainerImage]) -> None:
    target, image = xavier
    (row,) = run(target, DENSE)
    check(row, image)
    assert row.target == "xavier_neon"


def test_another_kind_of_processor_is_refused_unless_emulation_is_meant(
    run: Run, hikey: tuple[Target, ContainerImage], root: Path, standing_board: Board
) -> None:
    with pytest.raises(
        EngineError, match=f"{standing_board.host} is x86_64, the target is aarch64"
    ) as failure:
        run(hikey[0], DENSE, emulate=False)
    assert "--emulate" in failure.value.next_step
    assert stored_rows(root, "trial") == ()


def test_there_is_nothing_to_emulate_where_the_processor_is_the_targets(
    run: Run, root: Path, standing_board: Board
) -> None:
    target = replace(targets.load("x86"), detected="")
    with pytest.raises(UsageError, match=f"{standing_board.host} is x86_64 itself.*leave --emulate out"):
        run(target, DENSE)
    assert stored_rows(root, "trial") == ()


def test_what_was_detected_here_is_no_board(run: Run, root: Path) -> None:
    with pytest.raises(
        TargetError, match="its values were detected on this machine, not at ssh://dlas-board"
    ):
        run(targets.load("x86"), DENSE, emulate=False)
    assert stored_rows(root, "trial") == ()
