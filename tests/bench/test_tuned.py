"""What searches found against all others: a real small network with real peers, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from invoke import Context, Exit
from rich.console import Console
from torch import nn

import tasks
from dlas import pipeline, sweep
from dlas.algorithms import reference
from dlas.bench import layers, tuned
from dlas.bench.several import Contest, Effort, Report
from dlas.bench.tuned import Rules, Variant
from dlas.errors import BuildError, DeviceError, UsageError
from dlas.hardware import targets
from dlas.hardware.device import LocalDevice
from dlas.hardware.runner import build_runner
from dlas.models.loading import load
from dlas.systems import artifact as artifacts_of
from dlas.systems.autoschedule import record as lines
from dlas.systems.autoschedule import space
from dlas.systems.autoschedule.record import Record
from dlas.systems.autoschedule.records import Database, path_of
from dlas.systems.autoschedule.workload import Choice, parse
from dlas.trial import Settings, Trial
from dlas.values import Artifact, Device, Weights
from dlas.worker import Limit, Worker

TARGET = targets.load("x86")
PEERS = ("onnxruntime", "openvino")
SWEEP = """
description = "a test"
[axes]
dataset = ["cifar10"]
model = ["own"]
compression = ["dense"]
precision = ["fp32"]
format = ["blocked", "dense"]
algorithm = ["direct"]
tuning = ["tuned", "scheduled", "minimal"]
[models.own]
factory = "tests.bench.networks:small"
input_shape = [1, 3, 12, 12]
"""
EFFORT = Effort(convolutions=20, with_record=19, searches=10, trials=400, most=40, threads=(1,))


def silent(text: str) -> None:
    """For a test that does not look at the progress."""


@pytest.fixture
def cells(tmp_path: Path) -> tuned.Cells:
    path = tmp_path / "own.toml"
    path.write_text(SWEEP)
    (found,) = tuned.group(sweep.expand(sweep.load(str(path)), [TARGET]), "blocked")
    return found


@pytest.fixture
def settings(root: Path) -> Settings:
    return Settings("bench", root, runner="local", repeats=4)


def make_record(workload: str, choice: Choice, trial: int) -> Record:
    return Record(
        workload=workload,
        compiler=lines.digest_of(TARGET.compiler),
        like=lines.like_of(TARGET.compiler),
        threads=1,
        choice=choice,
        median_ns=1_000_000 - trial,
        reason="",
        detail="",
        build_seconds=0.5,
        run_seconds=0.25,
        device="f" * 32,
        device_model="CPU",
        tvm=lines.tvm_version(),
        dlas=lines.dlas_version(),
        at=datetime.now(UTC),
    )


@pytest.fixture
def recorded(cells: tuned.Cells, settings: Settings, device: Device) -> tuple[str, ...]:
    """The workloads of the network; all but the last have records: the hand schedule, then another one."""
    found = trial_of(cells, settings, device).tuned
    assert found is not None
    names = found.workloads
    database = Database.open(path_of(settings.root, TARGET.name))
    for name in names[:-1]:
        other = space.structures(parse(name), TARGET.compiler)[-1]
        database.append([make_record(name, choice, n) for n, choice in enumerate((space.HAND, other))])
    return names


def trial_of(cells: tuned.Cells, settings: Settings, device: Device, threads: int = 1) -> Trial:
    with Worker() as worker:
        bench = tuned.Bench(settings, worker, device, Rules(PEERS, (1,), 1), silent)
        return bench.trial(tuned.tuned_of(cells), threads)


@pytest.fixture
def device(root: Path) -> Device:
    return LocalDevice(TARGET, build_runner(TARGET, root, silent), root / "jobs")


@pytest.mark.slow
def test_a_network_is_compared_with_what_is_recorded_of_it(
    cells: tuned.Cells, settings: Settings, device: Device, recorded: tuple[str, ...]
) -> None:
    said: list[str] = []
    path = path_of(settings.root, TARGET.name)
    before = path.read_bytes()
    report = tuned.run([cells], Rules(PEERS, (1,), 2), settings, said.append)
    (contest,) = report.contests
    ours = ("tuned blocked", "scheduled blocked", "scheduled dense", "minimal dense")
    assert tuple(contest.times_ns) == (*ours, *PEERS)
    assert all(len(times) == 2 and min(times) > 0 for times in contest.times_ns.values())
    assert path.read_bytes() == before  # nothing was searched
    effort = "2 of 3 convolutions have a record, 4 trials in 2 searches on threads 1, at most 2 in one"
    assert any(effort in line for line in said)
    assert report.few_repeats == {"minimal dense": 3}
    made = artifacts_of.read(trial_of(cells, settings, device).artifact_folder)
    assert (made.ops_tuned, made.ops_total) == (2, 3)
    for_two = replace(make_record(recorded[0], space.HAND, 0), threads=2)
    Database.open(path).append([for_two])
    chosen = [trial_of(cells, settings, device, threads).tuned for threads in (1, 2)]
    assert [found and found.choices[recorded[0]] == space.HAND for found in chosen] == [False, True]
    text = show(report)
    for words in (*contest.times_ns, effort, "2 rounds of one process each with 4 inferences (3 of minimal"):
        assert words in text


def test_each_number_of_threads_has_its_own_choices(
    cells: tuned.Cells,
    settings: Settings,
    device: Device,
    recorded: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def obtain(trial: Trial, worker: Worker) -> Artifact:
        asked.append(trial.settings.threads)
        raise BuildError("enough is known")

    monkeypatch.setattr(tuned, "obtain_artifact", obtain)
    with Worker() as worker:
        bench = tuned.Bench(settings, worker, device, Rules(PEERS, (1, 2), 1), silent)
        for threads in (1, 2):
            with pytest.raises(BuildError, match="enough is known"):
                next(bench.compare(cells, threads))
    assert asked == [1, 2]


class Noting(Worker):
    """Notes which variants it builds."""

    variants: ClassVar[list[tuple[str, Choice | None]]] = []

    def call(self, log: Path, limit: Limit, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if function is layers.build_variant:
            self.variants.append((args[0], args[2]))
        return super().call(log, limit, function, *args, **kwargs)


@pytest.mark.slow
def test_the_largest_convolutions_are_compared_alone(
    cells: tuned.Cells, settings: Settings, recorded: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(tuned, "Worker", Noting)
    report = tuned.run([cells], Rules(("onnxruntime",), (1,), 2, layers=3), settings, said.append)
    second, first = report.contests
    assert [contest.layer for contest in (first, second)] == [layers.shorten(name) for name in recorded[:2]]
    assert (first.macs, second.macs) == (144 * 32 * 27, 144 * 64 * 288)
    assert tuple(second.times_ns) == ("tuned blocked", "scheduled blocked", "onnxruntime")
    others = [space.structures(parse(name), TARGET.compiler)[-1] for name in recorded[:2]]
    assert Noting.variants == [
        *((recorded[1], others[1]), (recorded[1], None), (recorded[0], others[0]), (recorded[0], None))
    ]
    assert any(f"{layers.shorten(recorded[2])} has no record, so it is left out" in line for line in said)
    text = show(report)
    block = TARGET.compiler.vector_lanes
    for words in (second.layer, f"blocks of {block} channels", "peers read and write NCHW", "apache-tvm 0."):
        assert words in text
    elsewhere = replace(settings, root=settings.root / "empty")
    with pytest.raises(UsageError, match="nothing is recorded of direct blocked"):
        tuned.run([cells], Rules(PEERS, (1,), 2), elsewhere, silent)


def show(report: Report) -> str:
    console = Console(width=240)
    with console.capture() as captured:
        console.print(report, soft_wrap=True)
    return captured.get()


@pytest.mark.parametrize("is_hand", [True, False])
def test_a_variant_with_a_wrong_output_is_no_time(tmp_path: Path, device: Device, is_hand: bool) -> None:
    name = "direct/blocked/1x16x6x6/16x3x3/s1x1/p1x1x1x1/d1x1/g1/z0"
    choice = None if is_hand else space.structures(parse(name), TARGET.compiler)[-1]
    layers.build_variant(name, TARGET.compiler, choice, tmp_path)
    variant, hand = Variant(tmp_path), tmp_path / "hand"
    hand.mkdir()
    layers.build_variant(name, TARGET.compiler, space.HAND, hand)
    is_same = (hand / "model.so").read_bytes() == (tmp_path / "model.so").read_bytes()
    assert is_same == is_hand
    assert len(variant.time(device, 1, 5)) == 5
    oracle = np.load(tmp_path / "oracle.npy")
    oracle.flat[0] += 1e-3 * np.abs(oracle).max()
    np.save(tmp_path / "oracle.npy", oracle)
    with pytest.raises(DeviceError, match=r"output differs from that of the oracle by 0\.001"):
        variant.time(device, 1, 5)


@pytest.mark.parametrize(
    "name",
    [
        "direct/dense/1x4x9x9/6x3x3/s2x2/p0x0x1x1/d1x1/g1/z0",
        "direct/dense/1x4x9x7/6x1x3/s1x2/p0x1x0x1/d1x1/g2/z0",
        "depthwise/blocked/1x16x9x9/16x3x3/s1x1/p2x2x2x2/d2x2/g16/z0",
    ],
)
def test_peers_are_given_the_same_convolution(name: str) -> None:
    model = load(layers.as_network(name), Weights("untrained"))
    conv = next(module for module in model.module.modules() if isinstance(module, nn.Conv2d))
    assert conv.bias is not None
    weight, bias = (tensor.detach().numpy() for tensor in (conv.weight, conv.bias))
    expected = np.maximum(reference.conv2d(model.input, weight, parse(name).conv) + bias[:, None, None], 0)
    np.testing.assert_allclose(model.output, expected, rtol=1e-4, atol=1e-5)


def test_the_largest_convolutions_are_those_that_take_most_together() -> None:
    first = "direct/dense/1x3x8x8/8x3x3/s1x1/p1x1x1x1/d1x1/g1/z0"
    depthwise = "depthwise/dense/1x8x8x8/8x3x3/s1x1/p1x1x1x1/d1x1/g8/z0"
    large = "direct/dense/1x8x8x8/8x3x3/s1x1/p1x1x1x1/d1x1/g1/z0"
    found = layers.find_largest([first, large, *[depthwise] * 9], 2)
    assert found == {depthwise: 64 * 8 * 9, large: 64 * 8 * 72}
    assert list(layers.find_largest([first, large, *[depthwise] * 9], 9)) == [depthwise, large, first]


def contest(network: str = "net", threads: int = 1, **times_ms: float) -> Contest:
    times = {"tuned blocked": 4.0, "scheduled blocked": 5.0, "onnxruntime": 8.0, "openvino": 2.0} | times_ms
    times_ns = {name: (1e6 * each,) * 6 for name, each in times.items()}
    return Contest(network, threads, times_ns, PEERS, EFFORT)


def report(*contests: Contest) -> Report:
    return Report(
        contests=contests,
        algorithm="direct",
        rounds=6,
        repeats=60,
        few_repeats={},
        block=8,
        runner="local",
        cpu_model="A CPU",
        versions={"tvm": "0.1", "openvino": "2"},
        date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )


def cells_of(text: str, first: str) -> list[list[str]]:
    """The lines of tables whose first cell is this one."""
    rows = ([cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines())
    return [row for row in rows if row[0] == first]


def test_the_table_of_a_network() -> None:
    text = show(report(contest()))
    assert cells_of(text, "openvino") == [["openvino", "2.000", "2.000", "2.000 to 2.000", "slower"]]
    assert cells_of(text, "onnxruntime") == [["onnxruntime", "8.000", "0.500", "0.500 to 0.500", "faster"]]
    assert cells_of(text, "scheduled blocked")[0][2] == "0.800"
    assert "tuned / best peer (openvino): 2.000 (2.000 to 2.000), slower" in text
    assert "19 of 20 convolutions have a record, 400 trials in 10 searches on threads 1" in text
    assert "all networks" not in text
    conditions = (
        "6 rounds of one process each with 60 inferences; at most 40 trials in a search; A CPU; runner"
    )
    assert f"{conditions} local; tvm 0.1, openvino 2; 2026-01-02 03:04 UTC" in text


def test_the_summary_of_several_networks() -> None:
    text = show(report(contest(), contest("other", 2, openvino=5.0)))
    net, other = cells_of(text, "net")[0], cells_of(text, "other")[0]
    assert net[1:5] == ["1", "4.000", "0.500", "2.000"]
    assert other[1:] == [
        *("2", "4.000", "0.500", "0.800", "0.800", "0.800 to 0.800", "faster", "19 of 20", "40")
    ]


def test_the_table_of_convolutions() -> None:
    alone = [replace(contest(), layer=name, macs=10**9) for name in ("1x3x8x8/8x3x3", "1x8x8x8/8x3x3")]
    text = show(report(*alone))
    (row,) = cells_of(text, "1x8x8x8/8x3x3")
    assert row[1:5] == ["1.000", "4.000 (500)", "5.000 (400)", "8.000 (250)"]
    assert row[6:] == ["0.800", "2.000", "2.000 to 2.000", "slower"]
    assert "all networks" not in text


def test_searches_of_other_machines_are_said() -> None:
    assert str(replace(EFFORT, imported=3)).endswith("; 3 of these searches were made elsewhere")


def test_every_network_of_a_dataset() -> None:
    asked = ("dense", "fp32", "direct", "blocked")
    small_ones = tuned.choose("*", "cifar10", *asked)
    large_ones = tuned.choose("*net*", "imagenet", *asked)
    names = [[tuned.tuned_of(each).cell.model.name for each in found] for found in (small_ones, large_ones)]
    assert names[0] == ["resnet18", "mobilenetv1", "mobilenetv2", "vgg16"]
    assert set(names[1]) == {"densenet161", "efficientnetb0", "resnet50", "mobilenetv2"}
    assert all("minimal dense" in each for each in small_ones)
    assert not any("minimal dense" in each for each in large_ones)
    (dense,) = tuned.choose("vgg16", "cifar10", "dense", "fp32", "direct", "dense")
    assert list(dense) == ["tuned dense", "scheduled dense", "minimal dense"]
    assert {(each.cell.tuning, each.cell.format, each.cell.algorithm) for each in dense.values()} == {
        *(("tuned", "dense", "direct"), ("scheduled", "dense", "direct"), ("minimal", "dense", "direct"))
    }


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"format": "blokked"}, 2, "--format has unknown 'blokked', allowed: .*; did you mean blocked"),
        ({"precision": "int8"}, 2, "only fp32 is tuned, not int8; leave --precision out"),
        ({"model": "resnet19"}, 2, "--model has unknown 'resnet19', .*; did you mean resnet18"),
        ({"dataset": "imagnet"}, 2, "unknown dataset 'imagnet'; did you mean imagenet"),
        ({"algorithm": "direct,gemm"}, 2, "--algorithm has unknown 'direct,gemm', allowed: direct, gemm, "),
        ({"compression": "wieght90"}, 2, "--compression: unknown compression 'wieght90'"),
        ({"against": "openvin"}, 2, "unknown peer 'openvin'; did you mean openvino"),
        ({"against": "fp32"}, 2, "fp32 cannot be compared with fp32; choose from onnxruntime, openvino"),
        ({"against": "torch,torch"}, 2, "a peer is named twice: torch,torch; name each once"),
        ({"threads": "1,1"}, 2, "a number of threads is named twice: 1,1; name each once"),
        ({"threads": "999"}, 2, "999 threads on .* cores; give fewer"),
        ({"threads": "one"}, 2, "'one' is no whole number"),
        ({"rounds": 0}, 2, "rounds is 0; give 1 or more"),
        ({"format": "csr", "layers": 2}, 2, "convolutions of format csr are not compared alone; leave"),
        ({"sparse": True}, 2, "--sparse and --tuned are two comparisons; give one of them"),
    ],
)
def test_commands_that_cannot_be_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], code: int, message: str
) -> None:
    monkeypatch.setattr(tasks, "ARTIFACTS", tmp_path)
    with pytest.raises(Exit, match=f"inv bench: {message}") as caught:
        tasks.bench(Context(), **{"tuned": True, "threads": "1"} | asked)
    assert caught.value.code == code
    assert "\n" not in str(caught.value.message)
    assert not any(tmp_path.iterdir())


def test_what_the_command_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    for name in ("run_tuned_bench", "run_bench"):
        monkeypatch.setattr(pipeline, name, lambda *given: calls.append(given) or "a table")
    monkeypatch.setattr(tasks, "ARTIFACTS", tmp_path)
    tasks.bench(Context(), tuned=True, threads="2,1", rounds=7, layers=3)
    tasks.bench(Context(), tuned=True, against="torch", algorithm="gemm", format="dense", model="*")
    tasks.bench(Context())
    assert calls[0][0] == ("resnet18", "cifar10", "dense", "fp32", "direct", "blocked")
    assert calls[0][1:5] == (["onnxruntime", "openvino"], [2, 1], 7, 3)
    assert calls[1][:2] == (("*", "cifar10", "dense", "fp32", "gemm", "dense"), ["torch"])
    assert calls[2][2] == ["direct", "gemm", "spatial_pack"]
    assert calls[2][4] == "onnxruntime"
