"""Ours against a peer, or against our own fp32: the same network, input, threads and CPUs, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

from dlas.bench.compare import Comparison, Run, compare
from dlas.bench.export import format_network, parse_network
from dlas.bench.peers import PEERS
from dlas.cache import atomic_folder, digest, hash_file
from dlas.compression import notation
from dlas.compression.export import OPSET
from dlas.errors import DeviceError, PeerError, UsageError, did_you_mean
from dlas.hardware import lock
from dlas.hardware.cpu import parse_cpus
from dlas.measurement.measure import measure
from dlas.values import WARMUPS, Artifact, Compression, Device, JobResult, ModelSpec, Weights

if TYPE_CHECKING:
    from rich.console import Group

TIMEOUT_S = 600
DENSE = Compression()
OURS = "fp32"
# What each precision can be compared with. No peer of torch's has integer kernels, nor one here fp16 ones.
AGAINST = {
    "fp32": tuple(PEERS),
    "fp16": (OURS,),
    "int8": ("onnxruntime", "openvino", OURS),
    "int8_ort_default": ("onnxruntime", "openvino", OURS),
}
CHOOSING_ROUNDS = 3  # that say which of our fp32 algorithms is the best; none of their times are compared
# They would change how many threads a peer has, or what it is.
UNWANTED = ("OMP_", "GOMP_", "KMP_", "MKL_", "LD_PRELOAD")

Progress = Callable[[str], None]


class Files(Protocol):
    """What has a folder with input.npy and oracle.npy, which a peer is given: an artifact, say."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class Peer:
    """A peer ready to run. model: see `dlas.bench.peers`."""

    name: str
    version: str
    model: str
    precision: str = "fp32"


@dataclass(frozen=True)
class Report:
    """What was compared, by algorithm and threads. rich prints it.

    versions: of what made ours, and of the peer. best: which of our fp32 algorithms was taken, by threads.
    """

    model: str
    precision: str
    against: str
    comparisons: Mapping[tuple[str, int], Comparison]
    best: Mapping[int, str]
    rounds: int
    repeats: int
    runner: str
    cpu_model: str
    versions: Mapping[str, str]
    date: datetime

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table

        is_own = self.against == OURS
        ours, other = (self.precision, f"our {OURS}") if is_own else ("ours", self.against)
        name = self.model if self.precision == "fp32" else f"{self.model} {self.precision}"
        table = Table(title=f"{name}: ours against {other}")
        table.add_column("algorithm")
        ratio = f"{ours} / {OURS if is_own else 'peer'}"
        for title in ("threads", f"{ours} ms", f"{other} ms", ratio, "95% interval"):
            table.add_column(title, justify="right")
        table.add_column(f"{ours} is")
        for (algorithm, threads), found in self.comparisons.items():
            table.add_row(algorithm, str(threads), *_cells(found))
        return Group(table, self.conditions())

    def conditions(self) -> str:
        """One line: on what and with what it was measured."""
        best = [f"{OURS} on threads {count}: {name}; " for count, name in self.best.items()]
        versions = ", ".join(f"{name} {text}" for name, text in self.versions.items())
        return (
            f"{''.join(best)}{self.rounds} rounds of one process each with {self.repeats} inferences; "
            f"{self.cpu_model}; runner {self.runner}; {versions}; {self.date:%Y-%m-%d %H:%M} UTC"
        )


def check(against: str, threads: Sequence[int], rounds: int, repeats: int, precision: str = "fp32") -> None:
    """What can be told before anything is built. Raises UsageError, or PeerError for a peer not installed."""
    if precision not in AGAINST:
        near = did_you_mean(precision, AGAINST)
        raise UsageError(f"unknown precision {precision!r}", near or f"choose from {', '.join(AGAINST)}")
    if against not in (*PEERS, OURS):
        near = did_you_mean(against, PEERS)
        raise UsageError(f"unknown peer {against!r}", near or f"choose from {', '.join(AGAINST[precision])}")
    if against not in AGAINST[precision]:
        cause = f"{precision} cannot be compared with {against}"
        raise UsageError(cause, f"choose from {', '.join(AGAINST[precision])}")
    for name, values in {"threads": threads, "rounds": [rounds], "repeats": [repeats]}.items():
        if not values or min(values) < 1:
            raise UsageError(f"{name} is {min(values, default='empty')}", "give 1 or more")
    if against != OURS and find_spec(against) is None:
        raise PeerError(f"{against} is not installed", "use ./inv, which installs it")


def run(
    artifacts_by_algorithm: Mapping[str, Artifact],
    model_spec: ModelSpec,
    weights: Weights,
    device: Device,
    against: str,
    threads: Sequence[int],
    rounds: int,
    repeats: int,
    root: Path,
    progress: Progress,
    precision: str = "fp32",
    quantized: Path | None = None,
    fp32: Mapping[str, Artifact] | None = None,
    compression: Compression = DENSE,
) -> Report:
    """Compare each artifact with the peer at each number of threads.

    The artifacts are of one model and of one precision; device is this machine, where the peer runs too.
    root is the artifacts folder, which keeps the ONNX file. quantized: the QDQ file that int8 artifacts were
    made from, which peers read. fp32: our artifacts by algorithm, to compare with where `against` is fp32;
    the best at each number of threads is found first. Raises UsageError, PeerError, and what the device
    raises.
    """
    check(against, threads, rounds, repeats, precision)
    any_artifact = next(iter(artifacts_by_algorithm.values()))
    peer, versions = None, any_artifact.versions
    if against != OURS:
        network = format_network(model_spec, weights, compression)
        peer = prepare(against, network, any_artifact, root, progress, precision, quantized)
        versions = {**versions, peer.name: peer.version}
    comparisons, best = {}, {}
    for count in threads:
        if peer is None:
            progress(f"looking for the best of our fp32, threads {count}")
            best[count] = find_best(device, fp32 or {}, count, repeats)
            rival: Run = partial(time_ours, device, (fp32 or {})[best[count]], count, repeats)
        else:
            cpu_set = run_ours(device, any_artifact, precision, count, repeats=1).cpu_set
            rival = partial(time_peer, peer, any_artifact, count, repeats, parse_cpus(cpu_set))
        for algorithm, artifact in artifacts_by_algorithm.items():
            progress(f"{rounds} rounds of {algorithm} and {against}, threads {count}")
            ours = partial(time_ours, device, artifact, count, repeats, precision)
            comparisons[algorithm, count] = compare(ours, rival, rounds)
    return Report(
        model=model_spec.name if compression == DENSE else f"{model_spec.name} {notation.write(compression)}",
        precision=precision,
        against=against,
        comparisons=comparisons,
        best=best,
        rounds=rounds,
        repeats=repeats,
        runner=device.runner,
        cpu_model=device.probe().cpu_model,
        versions=versions,
        date=datetime.now(UTC),
    )


def find_best(
    device: Device, artifacts_by_algorithm: Mapping[str, Artifact], threads: int, repeats: int
) -> str:
    """The algorithm with the least median over a few rounds, in turn. Raises UsageError and DeviceError."""
    if not artifacts_by_algorithm:
        raise UsageError("there is no fp32 artifact to compare with", "name its algorithms")
    medians_ns: dict[str, list[float]] = {name: [] for name in artifacts_by_algorithm}
    for _ in range(CHOOSING_ROUNDS):
        for name, artifact in artifacts_by_algorithm.items():
            medians_ns[name].append(median(time_ours(device, artifact, threads, repeats)))
    return min(medians_ns, key=lambda name: median(medians_ns[name]))


def time_ours(
    device: Device, artifact: Artifact, threads: int, repeats: int, precision: str = "fp32"
) -> tuple[int, ...]:
    """Nanoseconds of each inference of one process of ours. Raises DeviceError, also for a wrong output."""
    return run_ours(device, artifact, precision, threads, repeats).samples_ns


def time_peer(
    peer: Peer, artifact: Files, threads: int, repeats: int, cpus: frozenset[int] = frozenset()
) -> list[int]:
    """Nanoseconds of each inference of one process of the peer, on these CPUs. Raises PeerError."""
    files = [str(artifact.path / name) for name in ("input.npy", "oracle.npy")]
    numbers = {"threads": threads, "warmups": WARMUPS, "repeats": repeats}
    options = [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
    options += ["--precision", peer.precision]
    command = [peer.name, peer.model, *files, *options, "--cpus", *map(str, sorted(cpus))]
    with lock.hold(Path(lock.MACHINE), lock.WAIT_S):
        answer = _python("dlas.bench.peers", command, f"{peer.name} failed")
    samples_ns: list[int] = json.loads(answer.splitlines()[-1])["samples_ns"]
    return samples_ns


def prepare(
    name: str,
    network: str,
    artifact: Files,
    root: Path,
    progress: Progress,
    precision: str = "fp32",
    quantized: Path | None = None,
) -> Peer:
    """The peer with the model that it reads; its float32 form is exported once for each network.

    network: of `format_network`. quantized: as in `run`. Raises UsageError without it, and PeerError.
    """
    if precision != "fp32":
        if quantized is None or not quantized.is_file():
            raise UsageError(f"{name} has no {precision} model to read", "name an int8 algorithm")
        return Peer(name, version(name), str(quantized), precision)
    if name == "torch":
        return Peer(name, version(name), network)
    # The oracle stands for the weights, and for the code that made them.
    oracle = hash_file(artifact.path / "oracle.npy")
    key = digest(network, oracle, str(OPSET), version("torch"), version("onnxscript"))
    folder = root / "bench" / key[:32]
    if not folder.is_dir():
        model = parse_network(network)[0].name
        progress(f"exporting {model} to ONNX")
        with atomic_folder(folder) as made:
            _python("dlas.bench.export", [network, str(made / "model.onnx")], f"{model}: no export to ONNX")
    return Peer(name, version(name), str(folder / "model.onnx"))


def run_ours(device: Device, artifact: Artifact, precision: str, threads: int, repeats: int) -> JobResult:
    """One process of ours. Raises DeviceError when its output is wrong."""
    samples = measure(device, artifact, precision, threads, repeats)
    if samples.status != "measured":
        raise DeviceError(f"{artifact.path.name}: {samples.reason or samples.status}", "build it again")
    return samples.result


def _python(module: str, arguments: Sequence[str], failure: str) -> str:
    """What a module of ours prints, run by this Python. Raises PeerError with the last line of its stderr."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(UNWANTED)}
    command = [sys.executable, "-m", module, *arguments]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{failure}: it took longer than {TIMEOUT_S} s", "try a smaller model") from error
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        error_found = PeerError(f"{failure}: {said[-1]}", "try another peer")
        error_found.add_note(ended.stderr)
        raise error_found
    return ended.stdout


def _cells(found: Comparison) -> tuple[str, ...]:
    times = (f"{median(medians) / 1e6:.2f}" for medians in (found.ours_ns, found.peer_ns))
    return (*times, f"{found.ratio:.3f}", found.interval, found.verdict)
