"""Peers: real short processes on a small network, and what is said when one is wrong."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dlas.bench import benchmark
from dlas.bench.benchmark import Peer, prepare, time_peer
from dlas.bench.export import format_network
from dlas.bench.peers import ALLOWED, PEERS, time_samples
from dlas.compression.export import export_onnx
from dlas.compression.quantize import predict, quantize
from dlas.errors import PeerError, UsageError
from dlas.measurement.measure import TOLERANCE
from dlas.models.loading import load
from dlas.values import Artifact, Compression, ModelSpec, Weights

UNTRAINED = Weights("untrained")


def network(spec: ModelSpec) -> str:
    return format_network(spec, UNTRAINED, Compression())


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
    peer = prepare(name, network(spec), artifact, artifacts, silent)
    samples_ns = time_peer(peer, artifact, threads=1, repeats=7, cpus=frozenset({0}))
    assert len(samples_ns) == 7
    assert min(samples_ns) > 0


@pytest.fixture(scope="module")
def quantized(
    artifact: Artifact, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Path]:
    """The artifact with what its int8 form must compute, and the file of that."""
    folder = tmp_path_factory.mktemp("int8") / "small"
    shutil.copytree(artifact.path, folder)
    model = folder / "int8.onnx"
    export_onnx(load(spec, UNTRAINED).module, artifact.input(), folder / "float.onnx")
    quantize(folder / "float.onnx", artifact.input(), "int8", "uint8", model)
    halve_weights(model)
    np.save(folder / "oracle.npy", predict(model, artifact.input()))
    return replace(artifact, path=folder), model


def halve_weights(path: Path) -> None:
    """Keep the filters of a quantized model within 7 bits.

    Without VNNI, peers add products in pairs of 16 bits, which larger ones overflow; their outputs are then
    wrong, and refused as such.
    """
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.int8 and array.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(array // 2, tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_peer_reads_the_quantized_model(
    name: str, quantized: tuple[Artifact, Path], spec: ModelSpec
) -> None:
    artifact, model = quantized
    nowhere = artifact.path / "bench"
    peer = prepare(name, network(spec), artifact, nowhere, silent, "int8", model)
    assert (peer.model, peer.precision) == (str(model), "int8")
    assert len(time_peer(peer, artifact, threads=1, repeats=3)) == 3
    assert not nowhere.exists()


@pytest.mark.parametrize(
    ("precision", "error_over_allowed", "is_right"),
    [("fp32", 0.5, True), ("fp32", 2, False), ("int8", 0.9, True), ("int8", 1.1, False)],
)
def test_each_precision_may_be_off_by_its_own_share(
    precision: str,
    error_over_allowed: float,
    is_right: bool,
    quantized: tuple[Artifact, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(quantized[0].path, folder)
    artifact = replace(quantized[0], path=folder)
    oracle = artifact.oracle()
    scale = np.abs(oracle).max()
    where = np.unravel_index(np.abs(oracle).argmin(), oracle.shape)
    oracle[where] += error_over_allowed * ALLOWED[precision] * scale
    np.save(folder / "oracle.npy", oracle)
    with nullcontext() if is_right else pytest.raises(PeerError, match="its output is wrong"):
        time_peer(Peer("onnxruntime", "", str(quantized[1]), precision), artifact, threads=1, repeats=1)


def test_a_peer_without_a_quantized_model(artifact: Artifact, spec: ModelSpec, tmp_path: Path) -> None:
    for path in (None, tmp_path / "none.onnx"):
        with pytest.raises(UsageError, match="openvino has no int8 model to read; name"):
            prepare("openvino", network(spec), artifact, tmp_path, silent, "int8", path)


def test_a_network_is_exported_once(
    artifact: Artifact, wrong: Artifact, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(module: str, arguments: list[str], failure: str) -> str:
        exported.append(arguments[0])
        Path(arguments[1]).write_text("a network")
        return ""

    exported: list[str] = []
    monkeypatch.setattr(benchmark, "_python", export)
    first = prepare("onnxruntime", network(spec), artifact, tmp_path, silent)
    assert prepare("openvino", network(spec), artifact, tmp_path, silent).model == first.model
    assert exported == [network(spec)]
    assert Path(first.model).read_text() == "a network"

    other_weights = prepare("onnxruntime", network(spec), wrong, tmp_path, silent)
    assert other_weights.model != first.model
    assert len(exported) == 2


def test_a_peer_with_a_wrong_output_has_no_times(wrong: Artifact, spec: ModelSpec) -> None:
    peer = Peer("torch", "", network(spec))
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
            Peer("torch", "", network(spec)),
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
        time_peer(Peer("torch", "", network(spec)), artifact, threads=1, repeats=1)


def test_a_network_that_cannot_be_exported(artifact: Artifact, spec: ModelSpec, tmp_path: Path) -> None:
    missing = replace(spec, factory="torch.nn:Conv4d")
    with pytest.raises(PeerError, match=r"small: no export to ONNX: .*Conv4d"):
        prepare("onnxruntime", network(missing), artifact, tmp_path, silent)
    assert not list(tmp_path.glob("bench/*"))


@pytest.mark.parametrize("last", [np.full(3, 2, np.float32), np.full(3, np.nan, np.float32), np.ones((1, 3))])
def test_the_last_output_counts_too(last: np.ndarray) -> None:
    oracle = np.ones(3, np.float32)
    outputs = iter([oracle, oracle, oracle, last])
    with pytest.raises(PeerError, match="its output is wrong"):
        time_samples(lambda: next(outputs), oracle, warmups=1, repeats=2)
