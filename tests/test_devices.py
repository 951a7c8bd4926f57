"""Sweeps on devices that are out of bounds, busy, or gone: what becomes of their rows."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlas import pipeline, plan, publishing, sweep
from dlas.errors import DeviceBusyError, DeviceError, DeviceLostError, SweepIncomplete
from dlas.hardware import lock, targets
from dlas.hardware.device import LocalDevice
from dlas.measurement import environment, patience
from dlas.progress import Progress
from dlas.trial import Settings
from dlas.values import NO_BOUNDS, Bounds, Job, JobResult, Row
from tests.stored import stored_rows
from tests.test_pipeline import write_sweep

Run = Callable[..., list[Row]]


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Run:
    """Runs three cells of a small network within some bounds."""
    path = write_sweep(tmp_path, "tiny", algorithms='"direct", "gemm", "spatial_pack"')

    def run(bounds: Bounds = NO_BOUNDS, **settings: Any) -> list[Row]:
        target = replace(targets.load("x86"), bounds=bounds)
        chosen = Settings("trial", root, runner="local", repeats=4, threads=1, **settings)
        with Progress() as progress:
            return pipeline.run_sweep(sweep.expand(sweep.load(str(path)), [target]), chosen, progress)

    return run


def test_rows_out_of_bounds_are_kept_shown_apart_and_measured_anew(run: Run, root: Path) -> None:
    too_much = Bounds(least_free_mib=1 << 30)
    rows = run(too_much)
    assert {row.status for row in rows} == {"quarantined"}
    assert all(len(row.samples_ns) == 4 and not row.publishable for row in rows)
    assert "MiB of memory free, below 1073741824 MiB, before; " in rows[0].reason
    with pytest.raises(SweepIncomplete, match=r"3 of 3 cells are quarantined, the first is cifar10/my_tiny"):
        pipeline.check(rows, root)
    text = publishing.tell("trial", root, {})
    assert "quarantined   cifar10/my_tiny/dense/fp32/dense/direct/scheduled/x86_avx: " in text
    assert "ratio" not in text  # compared with nothing
    again = run(too_much)
    assert {row.started_at for row in again}.isdisjoint(row.started_at for row in rows)
    assert {row.status for row in run()} == {"measured"}


def test_a_busy_device_ends_the_sweep_without_a_row(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "MACHINE", str(tmp_path))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(DeviceBusyError, match="the device is busy: another job held its lock for 0 s"):
        run(wait_s=0)
    os.close(descriptor)
    assert stored_rows(root, "trial") == ()
    assert {row.status for row in run(wait_s=0)} == {"measured"}


class Going:
    """LocalDevice.run, but for some of the jobs the device is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *gone: int) -> None:
        self.count = 0
        honest = LocalDevice.run

        def run(device: LocalDevice, job: Job) -> JobResult:
            self.count += 1
            if self.count in gone:
                raise DeviceLostError("x86_avx: the runner was ended by SIGKILL", "see its log")
            return honest(device, job)

        monkeypatch.setattr(LocalDevice, "run", run)


def test_a_device_that_goes_costs_a_cell_and_the_next_run_resumes(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = Going(monkeypatch, 2)
    rows = run()
    assert [row.status for row in rows] == ["measured", "failed", "measured"]
    assert rows[1].reason == "x86_avx: the runner was ended by SIGKILL; see its log"
    again = run()
    assert [row.status for row in again] == ["measured"] * 3
    assert going.count == 4
    assert again[:2] == [rows[0], rows[2]]  # cached ones come first


def test_with_retry_the_sweep_waits_for_its_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_PAUSES_S", (0.01,))
    going = Going(monkeypatch, 2, 3)
    assert [row.status for row in run(retries=2)] == ["measured"] * 3
    assert going.count == 5


def test_what_would_fail_again_is_not_asked_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Job] = []

    def crash(device: LocalDevice, job: Job) -> JobResult:
        asked.append(job)
        raise DeviceError("x86_avx: the job took more memory than its container has", "see its log")

    monkeypatch.setattr(LocalDevice, "run", crash)
    assert [row.status for row in run(retries=5)] == ["failed"] * 3
    assert len(asked) == 3


def test_a_quarantined_row_replaces_no_measured_one(run: Run, root: Path) -> None:
    within = Bounds(least_free_mib=1)
    rows = run(within)
    # The bounds are in a row's identity; here they are the same, and the machine is not.
    machine = environment.available_mib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "available_mib", lambda state: 0)
        assert {row.status for row in run(within, force=True)} == {"quarantined"}
    assert environment.available_mib is machine
    assert sorted(stored_rows(root, "trial"), key=lambda row: row.cell) == sorted(
        rows, key=lambda row: row.cell
    )


def test_a_device_that_is_away_costs_the_others_nothing(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "RETRY_PAUSES_S", (0.01,))
    path = write_sweep(tmp_path, "tiny")
    away = replace(
        targets.load("hikey"), board=replace(targets.load("hikey").board, host=f"unix://{tmp_path}/no")
    )
    planned = sweep.expand(sweep.load(str(path)), [away, targets.load("x86")])
    settings = Settings("trial", root, repeats=4, threads=1, retries=2)
    with Progress() as progress:
        rows = pipeline.run_sweep(planned, settings, progress)
        assert [row.status for row in rows] == ["failed", "measured"]
        assert "no Docker engine answers" in rows[0].reason
        assert plan.describe(planned, settings, progress).startswith("no device")
        with pytest.raises(DeviceLostError, match="no Docker engine answers"):
            pipeline.run_sweep(planned[:1], replace(settings, retries=0), progress)
