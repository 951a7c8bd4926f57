"""Peers: real short processes on a small network, and what is said when one is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.bench import benchmark
from dlas.bench.benchmark import Peer, prepare, time_peer
from dlas.bench.export import format_network
from dlas.bench.peers import PEERS, time_samples
from dlas.errors import PeerError
from dlas.measurement.measure import TOLERANCE
from dlas.values import Artifact, ModelSpec, Weights

UNTRAINED = Weights("untrained")


def silent(text: str) -> None:
    """For a test that does not look at the progress."""


@pytest.fixture
def wrong(artifact: Artifact, tmp_path: Path) -> Artifact:
    """The same artifact with one value of its oracle changed by ten times the tolerance."""
    folder = tmp_path / "wrong"
    shutil.copytree(artifact.path, folder)
    oracle = artifact.oracle()
    oracle.flat[0] += 10 * TOLERANCE["fp32"] * np.abs(oracle).max()
    np.save(folder / "oracle.npy", oracle)
    return replace(artifact, path=folder)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_the_oracle_and_is_timed(
    name: str, artifact: Artifact, spec: ModelSpec, artifacts: Path
) -> None:
    peer = prepare(name, spec, UNTRAINED, artifact, artifacts, silent)
    samples_ns = time_peer(peer, artifact, threads=1, repeats=7, cpus=frozenset({0}))
    assert len(samples_ns) == 7
    assert min(samples_ns) > 0


def test_a_network_is_exported_once(
    artifact: Artifact, wrong: Artifact, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(module: str, arguments: list[str], failure: str) -> str:
        exported.append(arguments[0])
        Path(arguments[1]).write_text("a network")
        return ""

    exported: list[str] = []
    monkeypatch.setattr(benchmark, "_python", export)
    first = prepare("onnxruntime", spec, UNTRAINED, artifact, tmp_path, silent)
    assert prepare("openvino", spec, UNTRAINED, artifact, tmp_path, silent).model == first.model
    assert exported == [format_network(spec, UNTRAINED)]
    assert Path(first.model).read_text() == "a network"

    other_weights = prepare("onnxruntime", spec, UNTRAINED, wrong, tmp_path, silent)
    assert other_weights.model != first.model
    assert len(exported) == 2


def test_a_peer_with_a_wrong_output_has_no_times(wrong: Artifact, spec: ModelSpec) -> None:
    peer = Peer("torch", "", format_network(spec, UNTRAINED))
    with pytest.raises(PeerError, match=r"torch failed: its output is wrong: 0\.001 "):
        time_peer(peer, wrong, threads=1, repeats=1)


def test_a_peer_that_cannot_start_says_why(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no network")
    with pytest.raises(PeerError, match=r"onnxruntime failed: .*model\.onnx") as caught:
        time_peer(Peer("onnxruntime", "", str(tmp_path / "model.onnx")), artifact, threads=1, repeats=1)
    assert "Traceback" in caught.value.__notes__[0]


def test_a_peer_runs_on_the_cpus_it_is_given(artifact: Artifact, spec: ModelSpec) -> None:
    no_such_cpu = frozenset({1023})
    with pytest.raises(PeerError, match=r"torch failed: .*Invalid argument"):
        time_peer(
            Peer("torch", "", format_network(spec, UNTRAINED)),
            artifact,
            threads=1,
            repeats=1,
            cpus=no_such_cpu,
        )


def test_a_peer_that_takes_too_long_is_stopped(
    artifact: Artifact, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "TIMEOUT_S", 0.05)
    with pytest.raises(PeerError, match=r"it took longer than 0\.05 s"):
        time_peer(Peer("torch", "", format_network(spec, UNTRAINED)), artifact, threads=1, repeats=1)


def test_a_network_that_cannot_be_exported(artifact: Artifact, spec: ModelSpec, tmp_path: Path) -> None:
    missing = replace(spec, factory="torch.nn:Conv4d")
    with pytest.raises(PeerError, match=r"small: no export to ONNX: .*Conv4d"):
        prepare("onnxruntime", missing, UNTRAINED, artifact, tmp_path, silent)
    assert not list(tmp_path.glob("bench/*"))


@pytest.mark.parametrize("last", [np.full(3, 2, np.float32), np.full(3, np.nan, np.float32), np.ones((1, 3))])
def test_the_last_output_counts_too(last: np.ndarray) -> None:
    oracle = np.ones(3, np.float32)
    outputs = iter([oracle, oracle, oracle, last])
    with pytest.raises(PeerError, match="its output is wrong"):
        time_samples(lambda: next(outputs), oracle, warmups=1, repeats=2)
