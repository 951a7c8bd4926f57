"""A sweep from its file to its rows, with real builds and real runs of small networks."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tvm

from dlas import pipeline, plan, stages, sweep, sweepfile
from dlas.algorithms import direct
from dlas.errors import (
    BuildError,
    DataError,
    DeviceError,
    ScheduleError,
    StorageError,
    SweepIncomplete,
    UsageError,
)
from dlas.hardware import targets
from dlas.measurement import measure as measurement
from dlas.progress import Progress
from dlas.systems import passes
from dlas.trial import Place, Places, Settings, Trial
from dlas.values import Device, Row
from dlas.worker import Limit, Worker
from tests import pruned
from tests.stored import stored_rows

ROOT = Path(__file__).parents[1]
SWEEP = """
description = "a test"
[axes]
dataset = ["cifar10"]
model = [{models}]
compression = ["dense"]
precision = ["fp32"]
format = ["dense"]
algorithm = [{algorithms}]
tuning = ["scheduled"]
"""


def write_sweep(folder: Path, *networks: str, algorithms: str = '"direct"') -> Path:
    """A sweep of networks of tests/networks.py."""
    path = folder / "trial.toml"
    text = SWEEP.format(models=", ".join(f'"my_{name}"' for name in networks), algorithms=algorithms)
    for name in networks:
        text += f'[models.my_{name}]\nfactory = "tests.networks:{name}"\ninput_shape = [1, 3, 8, 8]\n'
    path.write_text(text)
    return path


def plan_of(path: Path) -> tuple[sweep.Planned, ...]:
    return sweep.expand(sweep.load(str(path)), [targets.load("x86")])


def run(path: Path, root: Path, **settings: Any) -> list[Row]:
    chosen = Settings("trial", root, runner="local", **{"repeats": 4, "threads": 1, **settings})
    with Progress() as progress:
        done = pipeline.run_sweep(plan_of(path), chosen, progress)
    pipeline.check(done, root)
    return done


def test_a_row_tells_what_ran(tmp_path: Path, root: Path) -> None:
    (row,) = run(write_sweep(tmp_path, "tiny"), root)
    assert (row.status, row.reason) == ("measured", "")
    assert row.cell == "cifar10/my_tiny/dense/fp32/dense/direct/scheduled/x86_avx"
    assert (len(row.samples_ns), len(row.warmup_ns) > 0, row.publishable) == (4, True, False)
    assert 0 <= row.max_error_over_scale < 1e-4
    assert (row.ops_total, row.ops_as_asked, row.ops_depthwise, row.fallbacks) == (2, 1, 1, [])
    assert any("direct" in kernel for kernel in row.kernels)
    assert (row.trained, row.threads, row.runner, row.emulated) == (False, 1, "local", False)
    assert len(row.artifact_sha256) == 64
    assert row.versions["apache-tvm"] == "0.27.0.post1"
    assert "/proc/loadavg" in row.environment_before
    assert "/proc/loadavg" in row.environment_after
    assert stored_rows(root, "trial") == (row,)


SPARSE = """
[[include]]
compression = "weight50"
format = "csr"
[[include]]
compression = "weight50"
format = "csr_packed"
[[include]]
compression = "channel50"
format = "csr"
"""


def test_rows_of_sparse_formats_tell_what_ran(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    path.write_text(path.read_text() + SPARSE)
    dense, csr, packed, channels = run(path, root)
    for row in (csr, packed, channels):
        assert (row.status, row.reason, row.fallbacks) == ("measured", "", [])
        assert 0 <= row.max_error_over_scale < 1e-4
        assert (row.ops_total, row.ops_as_asked, row.ops_sparse, row.ops_depthwise) == (2, 1, 1, 1)
        assert 0.4 < row.mac_sparsity_fraction < 0.6
        assert any(f"conv2d_{row.format}_direct" in kernel for kernel in row.kernels)
        assert row.dense_weight_bytes == dense.dense_weight_bytes
    assert (dense.ops_sparse, dense.mac_sparsity_fraction) == (0, 0)
    assert not any("csr" in kernel for kernel in dense.kernels)
    assert packed.weight_bytes < csr.weight_bytes  # 16 bits say where a weight is, not 32
    assert csr.weight_sparsity_fraction == packed.weight_sparsity_fraction == 0.5


COMPRESSED = """
[[include]]
precision = "int8"
[[include]]
precision = "fp16"
compression = "channel50_shrunk"
[[include]]
precision = "int8"
compression = "weight50"
"""


def test_rows_of_compressed_networks_tell_what_ran(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny", algorithms='"gemm"')
    path.write_text(path.read_text() + COMPRESSED)
    done = run(path, root)
    rows = {f"{row.compression}/{row.precision}": row for row in done}
    dense, shrunk = rows["dense/fp32"], rows["channel50_shrunk/fp16"]
    int8, sparse = rows["dense/int8"], rows["weight50/int8"]
    for row in done:
        assert (row.status, row.reason, row.trained, row.ops_total) == ("measured", "", False, 2)
        assert (row.finetuning, row.accuracy_reason != "") == ("", True)
        assert row.max_error_over_scale <= measurement.TOLERANCE[row.precision]
    for row in (dense, shrunk):
        assert (row.oracle, row.ops_integer, row.calibration, row.layout) == ("pytorch", 0, "", "nchw")
        assert "quantize" not in row.stage_seconds
        assert row.float32_error_over_scale == row.max_error_over_scale
    for row in (int8, sparse):
        assert (row.oracle, row.calibration, row.layout) == ("onnxruntime", "8 images of noise", "nhwc")
        assert row.ops_integer == 2
        assert row.stage_seconds["quantize"] > 0
        assert row.max_error_over_scale < row.float32_error_over_scale < 0.2  # 8 bits are not 24
    assert (dense.arithmetic, dense.level_fraction, dense.weight_sparsity_fraction) == ("float32", 0, 0)
    assert shrunk.arithmetic == "float16 storage, float32 arithmetic"
    assert (shrunk.level_fraction, shrunk.weight_sparsity_fraction) == (0.5, 0)
    assert int8.arithmetic.startswith("8-bit")
    assert (int8.level_fraction, sparse.level_fraction) == (0, 0.5)
    assert int8.weight_sparsity_fraction < 0.1  # a small weight may round to zero
    assert 0.5 <= sparse.weight_sparsity_fraction < 0.6
    assert len({row.artifact_sha256 for row in done}) == 4
    assert run(path, root) == done


@pytest.mark.parametrize("compression", ["weight@elbow", "weight90"])
def test_what_cannot_be_trained_for_want_of_data_fails_its_cell(
    tmp_path: Path, root: Path, compression: str
) -> None:
    path = write_sweep(tmp_path, "tiny")
    training = '[training.cifar10]\nrecipe = "paper"\ntrain = true\nfinetuning = "paper_finetune"\n'
    path.write_text(path.read_text().replace('["dense"]', f'["{compression}"]', 1) + training)
    with pytest.raises(SweepIncomplete, match="1 of 1 cells failed"):
        run(path, root, folders={"cifar10": tmp_path / "nowhere"})
    (row,) = stored_rows(root, "trial")
    assert (row.status, row.level_fraction) == ("failed", None)
    assert "cifar10" in row.reason


def test_an_elbow_that_is_not_there_is_invalid_and_says_why(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    path.write_text(path.read_text().replace('["dense"]', '["weight@elbow"]', 1))
    (row,) = run(path, root)
    assert (row.status, row.level_fraction, row.samples_ns, row.device) == ("invalid", None, [], "")
    assert "my_tiny is untrained, so there is no elbow" in row.reason
    assert "give the level by hand, as in weight80" in row.reason
    with Progress() as progress:
        settings = Settings("trial", root, runner="local", threads=1, repeats=4)
        assert plan.describe(plan_of(path), settings, progress).endswith("1 invalid; about 0 s in all")


def test_a_second_run_measures_nothing(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    first = run(path, root)
    assert run(path, root) == first
    assert run(path, root, force=True)[0].started_at > first[0].started_at


def test_a_forced_run_that_fails_loses_nothing(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep(tmp_path, "tiny")
    (first,) = run(path, root)
    monkeypatch.setattr(pipeline, "measure", lambda *_: (_ for _ in ()).throw(DeviceError("gone", "wait")))
    with pytest.raises(SweepIncomplete):
        run(path, root, force=True)
    assert stored_rows(root, "trial") == (first,)


def test_a_forced_run_that_finds_a_wrong_output_says_so(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep(tmp_path, "tiny")
    run(path, root)
    monkeypatch.setattr(measurement, "error_over_scale", lambda *_: 0.5)
    with pytest.raises(SweepIncomplete):
        run(path, root, force=True)
    (row,) = stored_rows(root, "trial")
    assert row.status == "wrong_output"
    assert "0.5 of its scale" in (root / row.log).read_text()


def test_a_damaged_artifact_fails_its_cell(tmp_path: Path, fresh: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    run(path, fresh)
    (folder,) = (fresh / "modules").iterdir()
    (folder / "oracle.npy").write_bytes(b"")
    with pytest.raises(SweepIncomplete):
        run(path, fresh, repeats=5)
    reasons = {row.reason for row in stored_rows(fresh, "trial") if row.status == "failed"}
    assert reasons == {
        f"{folder} does not hold what was built; delete {folder} and run the same command again"
    }


@pytest.mark.parametrize("name", ["model.onnx", "oracle.npy", "about.json"])
def test_a_damaged_network_of_integers_fails_its_cell(tmp_path: Path, fresh: Path, name: str) -> None:
    path = write_sweep(tmp_path, "tiny")
    path.write_text(path.read_text().replace('"fp32"', '"int8"', 1))
    (planned,) = plan_of(path)
    trial = Trial(planned, 0, Settings("trial", fresh), None, DataError("no data here", "get some"))
    folder = stages.obtain_quantized(trial, InProcess())
    assert folder is not None
    assert stages.check_quantized(folder)["calibration"] == "8 images of noise"
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(BuildError, match=f"{folder} is damaged: .*; delete {folder} and run the same"):
        stages.obtain_quantized(trial, InProcess())


def test_sweeps_and_compiler_know_the_same_algorithms_schedules_and_precisions() -> None:
    assert set(sweepfile.ALLOWED["algorithm"]) == set(passes.ALGORITHMS)
    assert set(sweepfile.ALLOWED["tuning"]) == {*passes.SCHEDULES, "tuned"}
    assert set(sweepfile.ALLOWED["precision"]) == set(passes.ARITHMETIC) == set(measurement.TOLERANCE)


def test_replicates_add_and_a_quick_look_never_stands_for_a_long_run(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    first = run(path, root)
    rows = run(path, root, replicates=3)
    assert [row.replicate for row in rows if row not in first] == [1, 2]
    assert len(run(path, root, repeats=6)[0].samples_ns) == 6


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("crashing", "the process for building was ended by SIGABRT"),
        ("hanging", "building took more than 20 s"),
        ("raising", "no weights today"),
    ],
)
def test_a_failure_is_a_row_and_the_sweep_goes_on(
    network: str, reason: str, tmp_path: Path, root: Path
) -> None:
    with pytest.raises(SweepIncomplete, match="1 of 2 cells failed"):
        run(write_sweep(tmp_path, network, "tiny"), root, build_timeout_s=20 if network == "hanging" else 120)
    bad, good = sorted(stored_rows(root, "trial"), key=lambda row: row.model)
    assert (bad.status, good.status) == ("failed", "measured")
    assert reason in bad.reason
    assert (root / bad.log).read_text()
    assert not [path for path in (root / "modules").iterdir() if path.name.startswith(".")]


def test_a_failed_cell_is_tried_again(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "raising")
    for _ in range(2):
        with pytest.raises(SweepIncomplete):
            run(path, root)
    assert len(stored_rows(root, "trial")) == 1


def test_a_convolution_without_an_algorithm_of_ours_is_counted(tmp_path: Path, root: Path) -> None:
    (row,) = run(write_sweep(tmp_path, "three_dimensional"), root)
    assert (row.status, row.ops_total, row.ops_as_asked) == ("measured", 1, 0)
    assert row.fallbacks == ["conv3d: TVM's own"]


class InProcess(Worker):
    """Builds here, where a test can break the code."""

    def call(self, log: Path, limit: Limit, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


def run_here(tmp_path: Path, root: Path, device: Device | None = None) -> Row:
    """One trial of the tiny network, built in this process."""
    settings = Settings("trial", root, runner="local", threads=1, repeats=4)
    (planned,) = plan_of(write_sweep(tmp_path, "tiny"))
    place = Places(settings, print).of(planned.target)
    place = Place(device, place.facts, 1) if device else place
    with Progress() as progress:
        trial = Trial(planned, 0, settings, place, DataError("no data here", "get some"))
        return pipeline.run_trial(trial, InProcess(), progress)


@pytest.fixture
def fresh(root: Path, tmp_path: Path) -> Path:
    """No modules in the cache: what a test breaks must be built, and must not stay."""
    (root / "modules").unlink()
    return root


def test_a_wrong_convolution_is_wrong_output(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = direct.conv2d

    def shifted(x: Any, packed: Any, conv: Any, tile: Any) -> Any:
        return right(x, packed, replace(conv, padding=(2, 1, 0, 1)), tile)

    monkeypatch.setattr(direct, "conv2d", shifted)
    row = run_here(tmp_path, fresh)
    assert row.status == "wrong_output"
    assert "differs from that of pytorch" in row.reason
    assert not row.publishable


def test_a_schedule_that_does_not_apply_fails_the_cell(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(func: Any, compiler: Any) -> Any:
        raise RuntimeError("no loop to tile")

    monkeypatch.setitem(passes.SCHEDULES, "scheduled", unfit)
    row = run_here(tmp_path, fresh)
    assert (row.status, row.samples_ns) == ("failed", [])
    assert "schedule scheduled does not apply to" in row.reason
    assert "no loop to tile" in row.reason
    assert ScheduleError.__name__ in (fresh / row.log).read_text()


def test_a_lying_runner_is_wrong_output(tmp_path: Path, root: Path) -> None:
    settings = Settings("trial", root, runner="local", threads=1)
    honest = Places(settings, print).of(targets.load("x86")).device
    liar = tmp_path / "runner"
    liar.write_text(
        f"#!{sys.executable}\n"
        "import subprocess, sys\n"
        f"answer = subprocess.run([{str(honest.program.binary)!r}, *sys.argv[1:]], "
        "stdin=sys.stdin.buffer, stdout=subprocess.PIPE).stdout\n"
        "line, output = answer.split(b'\\n', 1)\n"
        "sys.stdout.buffer.write(line + b'\\n' + bytes(len(output)))\n"
    )
    liar.chmod(liar.stat().st_mode | stat.S_IXUSR)
    row = run_here(tmp_path, root, replace(honest, program=replace(honest.program, folder=tmp_path)))
    assert row.status == "wrong_output"
    assert not row.publishable


def test_a_target_that_cannot_be_measured_gives_invalid_rows(tmp_path: Path, root: Path) -> None:
    board = targets.load("xavier_neon")
    board = replace(board, board=replace(board.board, runners=()))
    planned = sweep.expand(sweep.load(str(write_sweep(tmp_path, "tiny"))), [board])
    with Progress() as progress:
        (row,) = pipeline.run_sweep(planned, Settings("trial", root), progress)
    assert (row.status, row.device, row.samples_ns) == ("invalid", "", [])
    assert "does not reach xavier_neon" in row.reason


def test_more_threads_than_cores_are_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UsageError, match="1000 threads are more than x86_avx has cores for; give at most"):
        run(write_sweep(tmp_path, "tiny"), root, threads=1000)


def test_a_full_disk_ends_the_sweep_and_writes_no_row(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlinkable(*_: object, **__: object) -> None:
        raise RuntimeError("ld: final link failed: No space left on device")

    monkeypatch.setattr(tvm.relax.VMExecutable, "export_library", unlinkable)
    with pytest.raises(StorageError, match="No space left on device; free some with `invoke clean`"):
        run_here(tmp_path, fresh)
    assert stored_rows(fresh, "trial") == ()
    assert list((fresh / "modules").iterdir()) == []


def test_building_a_sweep_goes_on_after_a_network_that_fails(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan_of(write_sweep(tmp_path, "raising", "tiny"))
    with Progress() as progress, pytest.raises(SweepIncomplete, match="1 of 2 cells failed"):
        pipeline.build_sweep(planned, Settings("trial", root), progress)
    _, failed, built = capsys.readouterr().out.splitlines()
    assert "no weights today" in failed
    assert Path(built.rpartition(": ")[2], "model.so").is_file()


def test_what_cannot_be_measured_is_built_and_an_elbow_that_is_not_there_is_not(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(tmp_path, "tiny")
    path.write_text(path.read_text().replace('["dense"]', '["dense", "weight@elbow"]', 1))
    target = targets.load("x86")
    target = replace(target, board=replace(target.board, runners=()))
    planned = sweep.expand(sweep.load(str(path)), [target])
    assert all(each.unmeasurable for each in planned)
    with Progress() as progress:
        pipeline.build_sweep(planned, Settings("trial", root), progress)
    built, elbow = capsys.readouterr().out.splitlines()[-2:]
    assert Path(built.rpartition(": ")[2], "model.so").is_file()
    assert "invalid: my_tiny is untrained, so there is no elbow" in elbow


def test_a_plan_says_what_is_there_and_what_is_to_do(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny", algorithms='"direct", "gemm"')
    settings = Settings("trial", root, runner="local", threads=1, repeats=4)
    pipeline.run_sweep(plan_of(path)[:1], settings, Progress())
    first, second, totals = plan.describe(plan_of(path), settings, Progress()).splitlines()
    assert first.split() == ["cached", plan_of(path)[0].cell.id]
    assert second.split()[-3:-2] == ["about"]
    assert "1 cached" in totals
    assert len(stored_rows(root, "trial")) == 1


def test_a_plan_trains_and_prunes_each_network_once(tmp_path: Path, root: Path) -> None:
    text = pruned.SWEEP.replace('weights = "mine.pt"\n', "").replace('"weight90", ', "")
    settings = Settings("trial", root, runner="local", threads=1, repeats=4)
    *lines, totals = plan.describe(pruned.plan(tmp_path, text), settings, Progress()).splitlines()
    states = {line.split("digits/mine/")[1].split()[0]: line.split("digits/")[0].strip() for line in lines}
    built = "build, measure"
    assert states == {
        "dense/fp32/dense/direct/scheduled/x86_avx": f"train, {built}",
        "dense/fp32/dense/gemm/scheduled/x86_avx": built,
        "weight@elbow/fp32/dense/direct/scheduled/x86_avx": f"prune, {built}",
        "weight@elbow/fp32/dense/gemm/scheduled/x86_avx": built,
        "channel@elbow/fp32/dense/direct/scheduled/x86_avx": f"prune, {built}",
        "channel@elbow/fp32/dense/gemm/scheduled/x86_avx": built,
        "channel@elbow_shrunk/fp32/dense/direct/scheduled/x86_avx": built,
        "channel@elbow_shrunk/fp32/dense/gemm/scheduled/x86_avx": built,
    }
    assert "2 prune, build, measure" in totals


@pytest.mark.slow
def test_a_sweep_killed_at_any_moment_goes_on_where_it_was(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny", algorithms='"direct", "gemm", "spatial_pack"')
    command = [sys.executable, "-m", "invoke", "run", "--sweep", str(path), "--runner", "local"]
    environment = {**os.environ, "DLAS_ARTIFACTS": str(root)}
    choose = random.Random(0)
    for _ in range(4):
        child = subprocess.Popen(
            [*command, "--repeats", "4"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(choose.uniform(0.5, 6))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    ended = subprocess.run(
        [*command, "--repeats", "4"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    rows = stored_rows(root, "trial")
    assert Counter(row.cell for row in rows) == {each.cell.id: 1 for each in plan_of(path)}
    assert {row.status for row in rows} == {"measured"}
