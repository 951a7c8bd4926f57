"""The whole comparison, with a device and peers that are pretended."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dlas.bench import benchmark
from dlas.bench.benchmark import Peer, Report
from dlas.errors import DeviceError, PeerError, UsageError
from dlas.hardware import targets
from dlas.measurement.measure import TOLERANCE
from dlas.values import (
    NO_IMAGE,
    Artifact,
    Compression,
    ContainerImage,
    DeviceFacts,
    Job,
    JobResult,
    ModelSpec,
    Target,
    Weights,
)

UNTRAINED = Weights("untrained")


@dataclass
class PretendedDevice:
    """Answers with what it was given, after noting the job. times_ns: by module's folder, on one thread."""

    output: np.ndarray
    stable: bool = True
    times_ns: dict[str, int] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    runner: str = "local"
    emulated: bool = False
    image: ContainerImage = NO_IMAGE
    target: Target = field(default_factory=lambda: targets.load("x86"))

    def probe(self) -> DeviceFacts:
        return DeviceFacts("f", "Pretended CPU")

    def run(self, job: Job) -> JobResult:
        self.jobs.append(job)
        time_ns = self.times_ns.get(job.module.parent.name, 9_000_000)
        samples_ns = (time_ns // job.threads,) * job.repeats
        return JobResult(
            self.output[None], self.stable, (), samples_ns, job.threads, "0-1", 0, {}, {}, 1.0, 0.5
        )


def bench(artifact: Artifact, spec: ModelSpec, device: PretendedDevice, **changes: object) -> Report:
    arguments = {
        "artifacts_by_algorithm": {"direct": artifact, "gemm": artifact},
        "model_spec": spec,
        "weights": UNTRAINED,
        "device": device,
        "against": "torch",
        "threads": (1, 2),
        "rounds": 5,
        "repeats": 3,
        "root": Path("unused"),
        "progress": lambda text: None,
    }
    return benchmark.run(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture
def peer_jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Sequence[int]]]:
    """Threads, repeats and CPUs of each process of a pretended peer, which takes 10 ms on one thread."""
    jobs: list[tuple[int, int, Sequence[int]]] = []

    def time_peer(
        peer: Peer, artifact: Artifact, threads: int, repeats: int, cpus: frozenset[int]
    ) -> list[int]:
        jobs.append((threads, repeats, sorted(cpus)))
        return [10_000_000 // threads] * repeats

    monkeypatch.setattr(benchmark, "time_peer", time_peer)
    return jobs


def test_both_get_the_same_threads_cpus_and_repeats(
    artifact: Artifact, spec: ModelSpec, peer_jobs: list[tuple[int, int, Sequence[int]]]
) -> None:
    device = PretendedDevice(artifact.oracle())
    said: list[str] = []
    report = bench(artifact, spec, device, progress=said.append)
    assert list(report.comparisons) == [("direct", 1), ("gemm", 1), ("direct", 2), ("gemm", 2)]
    assert {found.ratio for found in report.comparisons.values()} == {0.9}
    assert peer_jobs == [(1, 3, [0, 1])] * 10 + [(2, 3, [0, 1])] * 10
    assert [job.threads for job in device.jobs if job.repeats == 3] == [1] * 10 + [2] * 10
    assert said[-1] == "5 rounds of gemm and torch, threads 2"


def test_the_report_says_what_was_measured_on_what(
    artifact: Artifact, spec: ModelSpec, peer_jobs: list[tuple[int, int, Sequence[int]]]
) -> None:
    console = Console(record=True, width=160)
    with console.capture() as captured:
        console.print(bench(artifact, spec, PretendedDevice(artifact.oracle())))
    text = captured.get()
    row = next(line for line in text.splitlines() if "gemm" in line and " 2 " in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        *("gemm", "2", "4.50", "5.00", "0.900", "0.900 to 0.900", "faster")
    ]
    for words in ("5 rounds", "3 inferences", "Pretended CPU", "runner local", "tvm 0.1", "torch 2.", "UTC"):
        assert words in text


def test_int8_against_the_best_of_our_fp32(artifact: Artifact, spec: ModelSpec, tmp_path: Path) -> None:
    made = {}
    for name in ("int8", "direct", "gemm", "spatial_pack"):
        shutil.copytree(artifact.path, tmp_path / name)
        made[name] = replace(artifact, path=tmp_path / name)
    int8, output = made.pop("int8"), artifact.oracle()
    np.save(int8.path / "oracle.npy", output + np.float32(0.5 * TOLERANCE["int8"] * np.abs(output).max()))
    times_ns = {"int8": 4_000_000, "direct": 9_000_000, "gemm": 5_000_000, "spatial_pack": 8_000_000}
    device = PretendedDevice(output, times_ns=times_ns)
    said: list[str] = []
    changes = {"precision": "int8", "fp32": made, "compression": Compression("weight", 0.9)}
    report = bench(int8, spec, device, against="fp32", progress=said.append, **changes)
    assert report.best == {1: "gemm", 2: "gemm"}
    assert {found.ratio for found in report.comparisons.values()} == {0.8}
    ran = [job.module.parent.name for job in device.jobs if job.threads == 2]
    turns = ["int8", "gemm", "gemm", "int8", "int8", "gemm", "gemm", "int8", "int8", "gemm"]
    assert ran == ["direct", "gemm", "spatial_pack"] * 3 + turns * 2
    assert "looking for the best of our fp32, threads 2" in said

    console = Console(width=200)
    with console.capture() as captured:
        console.print(report)
    for words in (
        "small weight90 int8: ours against our fp32",
        "int8 / fp32",
        "fp32 on threads 1: gemm; ",
        "0.800",
    ):
        assert words in captured.get()


def test_without_fp32_artifacts_there_is_nothing_to_compare(artifact: Artifact, spec: ModelSpec) -> None:
    with pytest.raises(UsageError, match="there is no fp32 artifact to compare with"):
        bench(artifact, spec, PretendedDevice(artifact.oracle()), against="fp32", precision="fp16")


def test_each_precision_of_ours_may_be_off_by_its_own_share(artifact: Artifact, spec: ModelSpec) -> None:
    oracle = artifact.oracle()
    device = PretendedDevice(oracle + np.float32(0.5 * TOLERANCE["fp16"] * np.abs(oracle).max()))
    changes = {"against": "fp32", "precision": "fp16"}
    with pytest.raises(DeviceError, match="output differs"):  # fp32's own output is as far off
        bench(artifact, spec, device, **changes, fp32={"gemm": artifact})
    assert benchmark.time_ours(device, artifact, 1, 3, "fp16") == (9_000_000,) * 3


def test_few_rounds_show_no_interval(
    artifact: Artifact, spec: ModelSpec, peer_jobs: list[tuple[int, int, Sequence[int]]]
) -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(bench(artifact, spec, PretendedDevice(artifact.oracle()), rounds=2))
    assert captured.get().count("too few rounds") == 4
    assert captured.get().count("undecided") == 4


@pytest.mark.parametrize(
    ("error", "stable", "says"),
    [
        (1e-3, True, "output differs from that of PyTorch by 0.001 "),
        (0, False, "another output than the first"),
    ],
)
def test_a_wrong_output_of_ours_is_no_time(
    artifact: Artifact, spec: ModelSpec, error: float, stable: bool, says: str
) -> None:
    oracle = artifact.oracle()
    device = PretendedDevice(oracle + np.float32(error * np.abs(oracle).max()), stable)
    with pytest.raises(DeviceError, match=f"small: .*{says}"):
        bench(artifact, spec, device)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threads": (1, 0)}, "threads is 0; give 1 or more"),
        ({"threads": ()}, "threads is empty; give 1 or more"),
        ({"rounds": 0}, "rounds is 0; give 1 or more"),
        ({"repeats": -3}, "repeats is -3; give 1 or more"),
        ({"against": "onnx_runtime"}, "unknown peer 'onnx_runtime'; did you mean onnxruntime?"),
        ({"against": "?"}, "unknown peer '?'; choose from onnxruntime, openvino, torch"),
        ({"precision": "int9"}, "unknown precision 'int9'; did you mean int8?"),
        (
            {"precision": "int8"},
            "int8 cannot be compared with torch; choose from onnxruntime, openvino, fp32",
        ),
        ({"precision": "fp16"}, "fp16 cannot be compared with torch; choose from fp32"),
        ({"against": "fp32"}, "fp32 cannot be compared with fp32; choose from onnxruntime, openvino, torch"),
    ],
)
def test_what_cannot_be_compared(
    artifact: Artifact, spec: ModelSpec, changes: dict[str, object], says: str
) -> None:
    device = PretendedDevice(artifact.oracle())
    with pytest.raises(UsageError) as caught:
        bench(artifact, spec, device, **changes)
    assert str(caught.value) == says
    assert device.jobs == []


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    with pytest.raises(PeerError, match=r"openvino is not installed; use \./inv"):
        benchmark.check("openvino", [1], 1, 1)
