"""Tuning from the command line and in sweeps: what is searched, what a row says, and what it rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke import Context, Exit

import tasks
from dlas import pipeline, plan, publishing, searches, stages, sweep, tuned, tuning
from dlas.errors import UsageError
from dlas.hardware import targets
from dlas.progress import Progress
from dlas.results import store
from dlas.sweeptables import Budget
from dlas.systems.autoschedule.record import digest_of
from dlas.systems.autoschedule.records import Database, path_of
from dlas.trial import Place, Places, Settings
from dlas.tuners import Search
from dlas.values import DeviceFacts, Row
from tests import tunable
from tests.stored import stored_rows
from tests.test_pipeline import InProcess, write_sweep
from tests.tunable import WORKLOADS, Bench, median_of

TARGET = targets.load("x86")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The only device that there is; networks are listed without a compiler."""
    bench = Bench()
    monkeypatch.setattr(Places, "of", lambda self, target: bench.place)
    monkeypatch.setattr(tuning, "Worker", InProcess)
    monkeypatch.setattr(stages, "list_layers", tunable.list_layers)
    return bench


def tune(root: Path, hosts: Sequence[str] = ("",), only: str = "*", trials: int = 20, **changes: Any) -> str:
    cells = tuning.choose("", "resnet18", "cifar10", "dense", ["direct"], "dense", TARGET)
    settings = Settings("tuning", root, **{"threads": 1, **changes})
    with Progress() as progress:
        return tuning.tune(cells, settings, hosts, Budget(trials, 0), only, progress, tunable.CORE)


def test_a_network_is_tuned_from_the_command_line(tmp_path: Path, bench: Bench) -> None:
    heading, first, second, spent = tune(tmp_path).splitlines()
    assert heading.split() == ["trials", "hand", "ms", "best", "ms", "speed-up", "workload"]
    assert first.split() == ["20", "1.150", "1.131", "1.02x", WORKLOADS[0]]
    assert second.split() == ["20", "1.150", "1.131", "1.02x", WORKLOADS[1]]
    assert "of building and measuring in all" in spent
    assert len(bench.ran) == 2 * 18  # one fails to build, one crashes the compiler
    assert ", 0 s of it now; " in tune(tmp_path).splitlines()[-1]
    assert len(bench.ran) == 2 * 18


def test_some_workloads_can_be_chosen(tmp_path: Path, bench: Bench) -> None:
    assert WORKLOADS[0] not in tune(tmp_path, only="*/4x1x1/*")
    with pytest.raises(UsageError, match=f"no workload matches 'x'; they are {WORKLOADS[0]}, {WORKLOADS[1]}"):
        tune(tmp_path, only="x")


def test_devices_that_cannot_tune_are_refused(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="a device is named twice: ssh://a,ssh://a; name each once"):
        tune(tmp_path, hosts=["ssh://a", "ssh://a"])
    with pytest.raises(UsageError, match="999 threads on"):
        tune(tmp_path, threads=999)
    bench.emulated = True
    with pytest.raises(UsageError, match="an emulated device tells no times"):
        tune(tmp_path)
    others = iter([Bench(), Bench(cpu_model="another CPU")])
    monkeypatch.setattr(Places, "of", lambda self, target: next(others).place)
    with pytest.raises(UsageError, match="the devices are of several kinds: CPU, another CPU"):
        tune(tmp_path, hosts=["ssh://a", "ssh://b"])
    assert not path_of(tmp_path, TARGET.name).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cifar"}, "unknown dataset 'cifar', known are cifar10, .*; did you mean cifar10"),
        ({"model": "resnet19"}, "--model has unknown 'resnet19', allowed: .*; did you mean resnet18"),
        ({"algorithms": ["gem"]}, "--algorithm has unknown 'gem', allowed: .*; did you mean gemm"),
        ({"compression": "weigth90"}, "--compression: unknown compression 'weigth90'"),
        ({"format": "elll"}, "--format has unknown 'elll', allowed: "),
        ({"model": "resnet50"}, "resnet50 has no definition for cifar10"),
        ({"sweep": "cifra"}, "unknown sweep 'cifra', .*; did you mean cifar"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes: dict[str, Any], message: str) -> None:
    asked = {
        "sweep": "",
        "model": "resnet18",
        "dataset": "cifar10",
        "compression": "dense",
        "algorithms": ["direct"],
        "format": "dense",
        "target": TARGET,
    }
    with pytest.raises(UsageError, match=message):
        tuning.choose(**{**asked, **changes})


def test_a_choice_of_cells() -> None:
    cells = tuning.choose("", "vgg16", "cifar10", "weight90", ["direct", "gemm"], "csr", TARGET)
    assert [each.cell.id for each in cells] == [
        f"cifar10/vgg16/weight90/fp32/csr/{name}/tuned/x86_avx" for name in ("direct", "gemm")
    ]


@pytest.fixture
def verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tasks, "ARTIFACTS", tmp_path)
    return tmp_path


def test_records_are_listed_pruned_exported_and_imported(
    verbs: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.show_tuning(Context(), action="list")
    assert capsys.readouterr().out == "there are no records; `invoke tune` makes them\n"
    tune(verbs)
    capsys.readouterr()
    tasks.show_tuning(Context(), action="list")
    title, _, first, second = capsys.readouterr().out.splitlines()
    assert title.startswith("x86_avx, CPU, 1 thread, compiler ")
    assert first.split() == ["20", "1.150", "1.131", "1.02x", WORKLOADS[0]]
    file = str(verbs / "best.json")
    tasks.show_tuning(Context(), action="export", path=file)
    assert capsys.readouterr().out == f"x86_avx: the best of 2 workloads are in {file}\n"
    tasks.show_tuning(Context(), action="prune")
    assert capsys.readouterr().out == "x86_avx: 6 of 40 records stay, and the trials of all\n"
    tasks.show_tuning(Context(), action="list", target="x86")
    assert capsys.readouterr().out.splitlines()[2:] == [first, second]
    path_of(verbs, "x86_avx").unlink()
    tasks.show_tuning(Context(), action="import", path=file)
    assert capsys.readouterr().out == "x86_avx: 2 choices were new\n"
    tasks.show_tuning(Context(), action="list")
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("x86_avx, CPU, 1 thread, imported, TVM ")
    assert sorted(lines) == sorted([first, second])


@pytest.mark.parametrize(
    ("verb", "asked", "code", "message"),
    [
        ("show_tuning", {"action": "lsit"}, 2, "inv tuning: unknown action 'lsit'; did you mean list?"),
        ("show_tuning", {"action": "export"}, 2, "inv tuning: export needs a file; name it with --path"),
        (
            "show_tuning",
            {"action": "import", "path": "no.json"},
            2,
            "inv tuning: no.json is no file; give one",
        ),
        ("show_tuning", {"action": "list", "target": "x87"}, 2, "inv tuning: unknown target 'x87'"),
        ("tune", {"trials": 0}, 2, "inv tune: trials is 0; give 1 or more"),
        ("tune", {"target": "x87"}, 2, "inv tune: unknown target 'x87'"),
        ("tune", {"target": "xavier"}, 2, "inv tune: cifar10/"),
        ("tune", {"format": "ell"}, 2, "inv tune: cifar10/"),
        ("tune", {"model": "resnet19"}, 2, "inv tune: --model has unknown 'resnet19'"),
    ],
)
def test_commands_that_cannot_be_are_one_line(
    verbs: Path, verb: str, asked: dict[str, Any], code: int, message: str
) -> None:
    with pytest.raises(Exit) as caught:
        getattr(tasks, verb)(Context(), **asked)
    assert caught.value.code == code
    assert str(caught.value.message).startswith(message)
    assert "\n" not in str(caught.value.message)


def test_damaged_records_are_one_line(verbs: Path) -> None:
    path = path_of(verbs, "x86_avx")
    path.parent.mkdir()
    path.write_text("{}\n")
    with pytest.raises(Exit) as caught:
        tasks.show_tuning(Context(), action="list")
    assert caught.value.code == 6
    assert f"{path}:1 is damaged" in str(caught.value.message)


class Sweeping:
    """Runs a sweep of the tiny network: it is built by hand and runs for real, and its search is a fake."""

    def __init__(self, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.path = write_sweep(tmp_path, "tiny")
        self.bench = Bench()
        self.searched: list[tuple[str, ...]] = []
        (root / "modules").unlink()  # what is compiled here is not what its key says
        monkeypatch.setattr(pipeline, "Worker", InProcess)
        monkeypatch.setattr(stages, "list_layers", tunable.list_layers)
        monkeypatch.setattr(stages, "compile_cell", tunable.compile_as_scheduled)
        honest = Search.run

        def run(search: Search, workloads: Sequence[str]) -> None:
            self.searched.append(tuple(workloads))
            search.places, search.core = [self.bench.place], tunable.CORE
            honest(search, workloads)

        monkeypatch.setattr(Search, "run", run)
        self.write(trials=10)

    def write(self, trials: int, tunings: str = '"tuned"') -> None:
        text = re.sub(r"tuning = .*", f"tuning = [{tunings}]", self.path.read_text().partition("[tuning]")[0])
        self.path.write_text(f"{text}[tuning]\ntrials = {trials}\n")

    @property
    def planned(self) -> tuple[sweep.Planned, ...]:
        return sweep.expand(sweep.load(str(self.path)), [TARGET])

    @property
    def settings(self) -> Settings:
        return Settings("trial", self.root, runner="local", repeats=4, threads=1)

    def run(self) -> list[Row]:
        with Progress() as progress:
            return pipeline.run_sweep(self.planned, self.settings, progress)

    def plan(self) -> list[str]:
        return plan.describe(self.planned, self.settings, Progress()).splitlines()


@pytest.fixture
def sweeping(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeping:
    return Sweeping(tmp_path, root, monkeypatch)


def test_a_tuned_cell_is_searched_built_with_it_and_measured(sweeping: Sweeping) -> None:
    (row,) = sweeping.run()
    assert (row.status, row.reason, row.tuning) == ("measured", "", "tuned")
    assert (row.tuning_trials, row.tuned_fraction) == (20, 1.0)
    assert row.tuning_seconds > 16 * 0.25
    assert len(row.tuning_sha256) == 64
    assert sweeping.searched == [WORKLOADS]
    assert f"{row.tuning_trials} trials" in publishing.tell("trial", sweeping.root, {})
    assert sweeping.run() == [row]
    assert len(sweeping.searched) == 1
    assert stored_rows(sweeping.root, "trial") == (row,)


def test_a_search_is_a_curve_from_the_hand_schedule_down(sweeping: Sweeping) -> None:
    sweeping.run()
    rows = store.read(sweeping.root, "trial").rows
    (curve,) = searches.search_curves(sweeping.planned, rows, sweeping.root, {})
    trials, shares = zip(*curve.points, strict=True)
    # 10 trials of each of two workloads, each variant faster than the one before.
    assert trials == tuple(range(1, 11))
    hand, best = median_of(0), median_of(9)
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(best / hand)
    assert list(shares) == sorted(shares, reverse=True)
    assert curve.ids == (rows[0].id,)
    assert searches.search_curves(sweeping.planned, [], sweeping.root, {}) == []


def test_more_trials_make_another_row_only_where_they_choose_something_else(sweeping: Sweeping) -> None:
    (first,) = sweeping.run()
    sweeping.write(trials=12)  # the next variants are faster
    (second,) = sweeping.run()
    assert sweeping.searched[1:] == [WORKLOADS]
    assert second.tuning_trials == 24
    assert len({each.tuning_sha256 for each in (first, second)}) == 2
    assert len({each.inputs_key for each in (first, second)}) == 2
    database = tuned.open_database(sweeping.root, TARGET)
    other = database.groups[WORKLOADS[0], digest_of(TARGET.compiler), 1][-1]
    database.append([replace(other, workload=WORKLOADS[0].replace("64", "32").replace("1x4", "1x8"))])
    assert sweeping.run() == [second]  # what another network's layers are tuned to is nothing to this one
    sweeping.write(trials=12 + 1)
    sweeping.bench.before = lambda number: (_ for _ in ()).throw(tunable.DeviceError("no", "no"))
    (third,) = sweeping.run()
    assert third.inputs_key == second.inputs_key  # one more trial, and the same choice


def test_a_search_that_fails_is_the_cells_reason(sweeping: Sweeping) -> None:
    sweeping.bench.before = lambda number: (_ for _ in ()).throw(tunable.DeviceError("SIGILL", "see it"))
    (row,) = sweeping.run()
    assert (row.status, row.tuning_trials, row.tuned_fraction) == ("failed", 0, None)
    assert "the hand schedule: crashed: SIGILL" in row.reason
    sweeping.bench.before = lambda number: None
    assert [row.status for row in sweeping.run()] == ["measured"]


def test_a_plan_tells_of_the_search(sweeping: Sweeping) -> None:
    sweeping.write(trials=1000, tunings='"tuned", "scheduled"')
    tuning_line, scheduled, totals = sweeping.plan()
    assert tuning_line.startswith("tune, build, measure ")
    assert "about 2.9 h" in tuning_line  # a guess
    assert scheduled.startswith("build, measure ")
    assert "1 tune, build, measure" in totals
    sweeping.write(trials=10)
    sweeping.run()
    assert sweeping.plan()[0].split()[0] == "cached"
    sweeping.write(trials=12)
    assert sweeping.plan()[0].startswith("tune, build, measure ")
    assert "about" in sweeping.plan()[0]


def test_building_alone_says_what_is_missing(sweeping: Sweeping, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        pipeline.build_sweep(sweeping.planned, sweeping.settings, progress)
    assert sweeping.searched == []
    said = capsys.readouterr().out
    assert "2 of 2 workloads have no record and get the hand schedule" in said
    assert "2 of 2 workloads lack trials; `invoke run` and `invoke tune` make them" in said
    sweeping.run()
    capsys.readouterr()
    with Progress() as progress:
        pipeline.build_sweep(sweeping.planned, sweeping.settings, progress)
    assert "workloads" not in capsys.readouterr().out


def test_an_emulated_device_is_not_tuned_on(
    sweeping: Sweeping, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Places.of

    def emulate(self: Places, target: Any) -> Any:
        place = real(self, target)
        assert isinstance(place, Place)
        return Place(Emulated(place.device), DeviceFacts("e" * 32, "QEMU"), 1)

    monkeypatch.setattr(Places, "of", emulate)
    (row,) = sweeping.run()
    assert (row.status, row.tuned_fraction, row.tuning_trials, row.tuning_sha256) == ("emulated", 0, 0, "")
    assert sweeping.searched == []
    assert "an emulated device makes none" in capsys.readouterr().out
    assert sweeping.run() == [row]


class Emulated:
    """A device that says that its times mean nothing."""

    emulated = True

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


def test_a_damaged_list_of_layers_is_made_again(sweeping: Sweeping) -> None:
    rows = sweeping.run()
    (layers,) = (sweeping.root / tuned.LAYERS).iterdir()
    whole = layers.read_text()
    layers.write_text('["direct"]')
    (row,) = sweeping.run()
    assert (row.tuning_sha256, row.inputs_key) == (rows[0].tuning_sha256, rows[0].inputs_key)
    assert layers.read_text() == whole
    assert len(sweeping.searched) == 1


def test_only_floats_are_tuned(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    text = path.read_text().replace('["scheduled"]', '["tuned"]').replace('["fp32"]', '["fp32", "int8"]')
    path.write_text(text)
    fp32, int8 = sweep.expand(sweep.load(str(path)), [TARGET])
    assert (fp32.reason, int8.reason) == ("", "only fp32 is tuned, not int8")


@pytest.mark.slow
def test_a_small_network_is_really_tuned(tmp_path: Path, root: Path) -> None:
    path = write_sweep(tmp_path, "tiny")
    path.write_text(path.read_text().replace('["scheduled"]', '["tuned"]') + "[tuning]\ntrials = 6\n")
    planned = sweep.expand(sweep.load(str(path)), [TARGET])
    settings = Settings("trial", root, runner="local", repeats=4, threads=1)
    with Progress() as progress:
        (row,) = pipeline.run_sweep(planned, settings, progress)
        assert (row.status, row.reason) == ("measured", "")
        assert row.max_error_over_scale < 1e-4
        assert row.tuned_fraction == 1
        assert pipeline.run_sweep(planned, settings, progress) == [row]
    database = Database.open(path_of(root, TARGET.name))
    for (workload, *_), records in database.groups.items():
        found = database.standing(*records[0].group)
        assert found.hand_ns, workload
        assert found.trials == 6 or found.is_exhausted
    assert row.tuning_trials == sum(database.standing(*group).trials for group in database.groups)
