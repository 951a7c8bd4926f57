"""Sparse against dense: break-even, what is compared, and what is refused; nothing is compiled."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console
from torch import nn

from dlas import sweep
from dlas.bench import benchmark, sparse
from dlas.bench.benchmark import Peer
from dlas.bench.break_even import Contest, Level, Report, crossing
from dlas.bench.compare import take_turns
from dlas.bench.export import parse_network
from dlas.bench.layers import list_layers
from dlas.bench.sparse import Cut
from dlas.errors import UsageError
from dlas.hardware import targets
from dlas.models.loading import load
from dlas.trial import Settings
from dlas.values import Artifact, Compression, ModelSpec, Weights
from dlas.worker import Worker
from tests.bench.test_benchmark import PretendedDevice


def level(zeros: float, *ours_ns: float) -> Level:
    return Level(round(100 * zeros), ours_ns, zeros, zeros - 0.05, 19, 20, 1_500_000)


def contest(*levels: Level, rivals_ns: tuple[float, ...] = (10.0,) * 6) -> Contest:
    return Contest("net", 2, "uniform", "direct", "gemm", rivals_ns, rivals_ns, levels)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.5, 0.5), (0.7, 2.0)], 0.6),  # halfway, on a logarithmic scale
        ([(0.5, 1.2), (0.9, 4.0)], -inf),
        ([(0.5, 0.2), (0.9, 0.9)], inf),
        ([(0.5, 1.1), (0.6, 0.5), (0.8, 2.0)], 0.7),  # from there on it stays above
        ([(0.5, 0.5), (0.7, 1.0)], 0.7),
        ([(0.9, 2.0)], -inf),
        ([(0.9, 0.5)], inf),
        ([(0.5, 0.5), (0.7, 2.0), (0.9, 0.8)], inf),  # slower in the end
        ([], inf),
    ],
)
def test_where_a_ratio_becomes_one(points: list[tuple[float, float]], expected: float) -> None:
    assert crossing(points) == pytest.approx(expected)


def test_break_even_has_an_interval_over_rounds() -> None:
    slower = (11.0, 11.5, 12.0, 12.5, 13.0, 13.5)
    found = contest(level(0.5, *slower), level(0.7, *[5.0] * 6)).break_even((10.0,) * 6)
    middle, low, high = found
    assert 0.5 < low < middle < high < 0.7


def test_break_even_beyond_the_levels_is_said_in_words() -> None:
    shown = render(contest(level(0.5, *[5.0] * 6), level(0.9, *[2.0] * 6)))
    assert "break-even at zeros: below 50% against onnxruntime; below 50% against our dense" in shown
    shown = render(contest(level(0.5, *[25.0] * 6), level(0.9, *[12.0] * 6)))
    assert "above 90% against onnxruntime" in shown
    mixed = contest(level(0.5, *[5.0, 20.0] * 3), level(0.9, *[1.0] * 6))
    assert "break-even at zeros: below 50% (below 50% .. " in render(mixed)
    assert "nan" not in render(contest(level(0.9, *[5.0, 20.0] * 3)))


def test_levels_where_nothing_is_sparse_do_not_count() -> None:
    dense = replace(level(0.5, *[9.0] * 6), sparse=0)  # faster than our dense by chance
    found = contest(dense, level(0.7, *[20.0] * 6), level(0.9, *[5.0] * 6))
    assert found.break_even((10.0,) * 6)[0] == pytest.approx(0.8)
    assert contest(dense).break_even((10.0,) * 6) == (inf, inf, inf)


def test_a_few_rounds_have_no_interval() -> None:
    shown = render(contest(level(0.5, 20.0), level(0.9, 5.0), rivals_ns=(10.0,)))
    assert "70.0% (too few rounds)" in shown
    assert "2.00x, too few rounds" in shown


def render(*contests: Contest) -> str:
    report = Report(
        contests=contests,
        format="auto",
        against="onnxruntime",
        rounds=6,
        repeats=3,
        runner="local",
        cpu_model="Pretended CPU",
        versions={"tvm": "0.1"},
        date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_a_table_gives_speed_ups_zeros_and_what_was_sparse() -> None:
    shown = render(contest(level(0.9, *[2.0e6] * 6), rivals_ns=(5.0e6,) * 6))
    assert "uniform pruning, auto direct; our dense (gemm) 5.000 ms, onnxruntime dense 5.000 ms" in shown
    (line,) = [line for line in shown.splitlines() if "90.0%" in line]
    assert [cell.strip() for cell in line.strip("│ \n").split("│")] == [
        *("90.0%", "85.0%", "19 of 20", "1.50", "2.000"),
        *["2.50x (2.50 .. 2.50) faster"] * 2,
    ]
    assert "6 rounds of one process each with 3 inferences; Pretended CPU; runner local; tvm 0.1" in shown


def test_all_take_turns_and_every_other_round_goes_backwards() -> None:
    order: list[str] = []

    def run(name: str) -> list[int]:
        order.append(name)
        return [len(order), len(order), 1000]

    times = take_turns({name: lambda name=name: run(name) for name in "abc"}, 2)
    assert order == ["a", "b", "c", "c", "b", "a"]
    assert times == {"a": (1, 6), "b": (2, 5), "c": (3, 4)}


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut((), "uniform", "auto"), "levels are empty; give per cents from 1 to 99, rising"),
        (Cut((90, 80), "uniform", "auto"), "levels are 90,80; give per cents"),
        (Cut((50, 50), "uniform", "auto"), "levels are 50,50; give per cents"),
        (Cut((0, 50), "uniform", "auto"), "levels are 0,50; give per cents"),
        (Cut((50, 100), "uniform", "auto"), "levels are 50,100; give per cents"),
        (Cut((50,), "uniforn", "auto"), "unknown pruning 'uniforn'; did you mean uniform?"),
        (Cut((50,), "uniform", "dense"), "unknown sparse format 'dense'; choose from csr, csr_packed, auto"),
    ],
)
def test_what_cannot_be_compared_is_refused(cut: Cut, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        sparse.check(planned("dense", "fp32"), cut)
    assert str(caught.value).startswith(message)


def planned(compression: str, precision: str) -> tuple[sweep.Planned, ...]:
    only = f"cifar10/resnet18/{compression}/{precision}/dense/*/scheduled/*"
    return sweep.select(sweep.expand(sweep.load("cifar"), [targets.load("x86")]), only)


@pytest.mark.parametrize(("compression", "precision"), [("weight90", "fp32"), ("dense", "int8")])
def test_what_is_pruned_or_quantized_already_is_refused(compression: str, precision: str) -> None:
    with pytest.raises(UsageError, match="is not dense fp32; leave --compression and --precision out"):
        sparse.check(planned(compression, precision), Cut((50,), "uniform", "auto"))


class Pretended(sparse.Bench):
    """Builds nothing; notes what it is asked for."""

    def __init__(self, artifact: Artifact, root: Path) -> None:
        device = PretendedDevice(artifact.oracle(), times_ns=TIMES_NS)
        super().__init__(Settings("bench", root, repeats=3), Worker(), device, "torch", 5, self.heard.append)
        self.artifact, self.root = artifact, root

    heard: ClassVar[list[str]] = []

    def build(self, planned: sweep.Planned, compression: str = "dense", format: str = "dense") -> Artifact:
        trial = self.trial(planned, compression, format)
        name = f"{trial.cell.compression}_{trial.cell.format}_{trial.cell.algorithm}"
        folder = self.root / name
        if not folder.is_dir():
            shutil.copytree(self.artifact.path, folder)
        zeros = (trial.network.resolved.level_fraction or 0.0) - 0.01
        return replace(self.artifact, path=folder, ops_sparse=19, weight_sparsity_fraction=zeros)


TIMES_NS = {
    "dense_dense_gemm": 6_000_000,
    "uniform70_csr_direct": 4_000_000,
    "uniform70_csr_gemm": 2_000_000,
    "uniform50_csr_gemm": 12_000_000,
    "uniform90_csr_gemm": 1_000_000,
}


def test_the_fastest_algorithm_is_compared_with_the_fastest_dense_one_and_the_dense_peer(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[str] = []

    def prepare(name: str, network: str, *_: object) -> Peer:
        networks.append(network)
        return Peer(name, "1.0", network)

    monkeypatch.setattr(benchmark, "prepare", prepare)
    monkeypatch.setattr(benchmark, "time_peer", lambda *_: [8_000_000])
    cells = {each.cell.algorithm: each for each in planned("dense", "fp32")}
    cut = Cut((50, 70, 90), "uniform", "csr")
    (found,) = Pretended(artifact, tmp_path).compare("net", cells, ["direct", "gemm"], cut, [1])
    assert (found.algorithm, found.dense_algorithm, found.pruning) == ("gemm", "gemm", "uniform")
    assert parse_network(networks[0])[2] == Compression()
    assert found.dense_ns == (6e6,) * 5
    assert found.peer_ns == (8e6,) * 5
    assert [(each.percent, each.ours_ns[0]) for each in found.levels] == [(50, 12e6), (70, 2e6), (90, 1e6)]
    assert 0.49 < found.break_even(found.dense_ns)[0] < 0.69
    with pytest.raises(UsageError, match="unknown algorithm 'winograd'; choose from direct, gemm"):
        Pretended(artifact, tmp_path).compare("net", cells, ["winograd"], cut, [1])


def test_the_layers_with_the_most_multiply_adds_stand_for_a_network() -> None:
    spec = ModelSpec(
        "small", "dlas.models.mobilenet:mobilenetv2", (1, 3, 32, 32), (("classes", 10), ("width", 8))
    )
    layers = list_layers(spec, 4)
    assert len({layer.spec.name for layer in layers}) == 4
    assert [layer.macs for layer in layers] == sorted((layer.macs for layer in layers), reverse=True)
    for layer in layers:
        arguments = dict(layer.spec.arguments)
        assert arguments["groups"] == 1
        assert arguments["in_channels"] > 3  # neither depthwise nor the first one
        assert layer.spec.input_shape[1] == arguments["in_channels"]
        made = load(layer.spec, Weights("untrained"))
        assert made.output.size * made.module.weight[0].numel() <= layer.macs


def several() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.Conv2d(8, 8, (1, 3)),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
    )


def test_layers_are_what_they_are_in_the_network() -> None:
    """Grouped, unpadded and strided ones are; those that the arguments of a sweep cannot say are left out."""
    layers = list_layers(ModelSpec("own", "tests.bench.test_sparse:several", (1, 3, 24, 24)), 99)
    assert {layer.spec.name: layer.macs for layer in layers} == {
        "conv3x3_8_8_at_24_groups2": 8 * 24 * 24 * 4 * 9,
        "conv3x3_8_8_at_24_padding0": 8 * 22 * 22 * 8 * 9,
        "conv3x3_8_8_at_22_stride2": 8 * 11 * 11 * 8 * 9,
    }
