"""Sweeps on a board over ssh that goes away, comes back, or is busy: what is kept, and what is done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dlas import pipeline, sweep
from dlas.errors import DeviceBusyError, SweepIncomplete
from dlas.hardware.device import DockerDevice
from dlas.measurement import patience
from dlas.progress import Progress
from dlas.trial import Settings
from dlas.values import Artifact, Device, Job, Row, Samples, Target
from tests.integration.board import Board
from tests.integration.watching import SOON_S, running
from tests.stored import stored_rows

pytestmark = [pytest.mark.docker, pytest.mark.board]

SWEEP = """
description = "a test"
[axes]
dataset = ["cifar10"]
model = ["my_tiny"]
compression = ["dense"]
precision = ["fp32"]
format = ["dense"]
algorithm = ["direct", "gemm", "spatial_pack"]
tuning = ["scheduled"]
[models.my_tiny]
factory = "tests.networks:tiny"
input_shape = [1, 3, 8, 8]
"""
Run = Callable[..., list[Row]]


@pytest.fixture
def run(root: Path, tmp_path: Path, standing_board: Board, target: Target, remote: DockerDevice) -> Run:
    """Runs some cells of a sweep of a small network on the board, each with another algorithm."""
    path = tmp_path / "trial.toml"
    path.write_text(SWEEP)
    planned = sweep.expand(sweep.load(str(path)), [target])

    def run_sweep(only: str = "*", **settings: Any) -> list[Row]:
        how = {"device": standing_board.host, "wait_s": 0, "repeats": 4, "threads": 1, **settings}
        with Progress() as progress:
            rows = pipeline.run_sweep(sweep.select(planned, only), Settings("trial", root, **how), progress)
        pipeline.check(rows, root)
        return rows

    return run_sweep


@dataclass
class Fault:
    """Stands before `measure`, counts its calls, and lets the board go away in the middle of one of them."""

    board: Board
    module: Path  # of a network that hangs
    folder: Path
    call: int = 0  # the first one has 1; 0 for none
    calls: list[str] = field(default_factory=list)
    afterwards: Callable[[], None] = lambda: None

    def measure(self, device: Device, artifact: Artifact, *others: Any) -> Samples:
        self.calls.append(artifact.key)
        if len(self.calls) != self.call:
            return MEASURE(device, artifact, *others)
        assert isinstance(device, DockerDevice)
        job = Job(self.module, artifact.input()[None], artifact.output_shape, threads=1)
        try:
            with running(device, job) as future:
                self.board.stop()
                future.result(SOON_S)
            raise AssertionError("a job came back from a board that was gone")
        finally:
            self.afterwards()


MEASURE = pipeline.measure


@pytest.fixture
def fault(
    board: Board, evil: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fault:
    made = Fault(board, evil("for (;;) pause();"), tmp_path)
    monkeypatch.setattr(pipeline, "measure", made.measure)
    return made


def test_a_board_that_goes_away_costs_its_cell_and_the_next_run_goes_on(
    fault: Fault, run: Run, root: Path, target: Target
) -> None:
    fault.call, fault.afterwards = 2, fault.board.start
    with pytest.raises(SweepIncomplete, match="3 cells"):
        run()
    rows = {row.algorithm: row for row in stored_rows(root, "trial")}
    states = {name: row.status for name, row in rows.items()}
    assert states == {"direct": "measured", "gemm": "failed", "spatial_pack": "measured"}
    assert rows["gemm"].reason.startswith(f"{target.name}: its engine is gone: ")
    assert "its engine is gone" in (root / rows["gemm"].log).read_text()
    assert len(fault.calls) == 3
    again = {row.algorithm: row for row in run()}
    assert len(fault.calls) == 4
    assert fault.calls[3] == fault.calls[1]
    assert {row.status for row in again.values()} == {"measured"}
    assert {name: again[name] for name in ("direct", "spatial_pack")} == {
        name: rows[name] for name in ("direct", "spatial_pack")
    }
    assert {row.algorithm: row for row in stored_rows(root, "trial")} == again


def test_a_board_that_comes_back_is_waited_for(
    fault: Fault,
    run: Run,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Pauses:
        """The board is away when it is first asked, and is back then."""

        def __iter__(self) -> Iterator[float]:
            yield 0.1
            fault.board.start()
            yield from [0.1] * 20

    monkeypatch.setattr(patience, "RETRY_PAUSES_S", Pauses())
    fault.call = 1
    (row,) = run("*/direct/*", retries=2)
    assert (row.status, len(row.samples_ns), len(fault.calls)) == ("measured", 4, 2)
    said = capsys.readouterr().out
    assert said.count("waiting for it, 2 more of 2 tries") == 1
    assert f"{target.name}: its engine is gone: " in said


def test_a_board_that_stays_away_fails_the_cell_after_its_tries(
    fault: Fault, run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "RETRY_PAUSES_S", (0.1,))
    fault.call = 1
    with pytest.raises(SweepIncomplete):
        run("*/direct/*", retries=1)
    (row,) = stored_rows(root, "trial")
    assert (row.status, len(fault.calls)) == ("failed", 2)
    assert "Connection refused" in row.reason


def test_a_busy_board_ends_the_sweep_and_fails_no_cell(
    run: Run, root: Path, remote: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    hanging = replace(job, module=evil("for (;;) pause();"), timeout_s=300)
    with running(remote, hanging), pytest.raises(DeviceBusyError, match="the device is busy"):
        run("*/direct/*")
    assert stored_rows(root, "trial") == ()
    (row,) = run("*/direct/*")
    assert row.status == "measured"
