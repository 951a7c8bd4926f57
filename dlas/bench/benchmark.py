"""Ours against a peer: the same network, input, threads and CPUs, in turn."""

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
from typing import TYPE_CHECKING

from dlas.bench.compare import Comparison, compare
from dlas.bench.export import OPSET, format_network
from dlas.bench.peers import PEERS
from dlas.cache import atomic_folder, digest, hash_file
from dlas.errors import DeviceError, PeerError, UsageError, did_you_mean
from dlas.hardware import lock
from dlas.hardware.cpu import parse_cpus
from dlas.measurement.measure import measure
from dlas.values import WARMUPS, Artifact, Device, JobResult, ModelSpec, Weights

if TYPE_CHECKING:
    from rich.console import Group

TIMEOUT_S = 600
LOCK_WAIT_S = 300
# They would change how many threads a peer has, or what it is.
UNWANTED = ("OMP_", "GOMP_", "KMP_", "MKL_", "LD_PRELOAD")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Peer:
    """A peer ready to run. model: see `dlas.bench.peers`."""

    name: str
    version: str
    model: str


@dataclass(frozen=True)
class Report:
    """What was compared, by algorithm and threads. rich prints it."""

    model: str
    peer: Peer
    comparisons: Mapping[tuple[str, int], Comparison]
    rounds: int
    repeats: int
    runner: str
    cpu_model: str
    versions: Mapping[str, str]
    date: datetime

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table

        table = Table(title=f"{self.model}: ours against {self.peer.name}")
        table.add_column("algorithm")
        for title in ("threads", "ours ms", f"{self.peer.name} ms", "ours / peer", "95% interval"):
            table.add_column(title, justify="right")
        table.add_column("ours is")
        for (algorithm, threads), found in self.comparisons.items():
            table.add_row(algorithm, str(threads), *_cells(found))
        return Group(table, self.conditions())

    def conditions(self) -> str:
        """One line: on what and with what it was measured."""
        versions = {**self.versions, self.peer.name: self.peer.version}
        return (
            f"{self.rounds} rounds of one process each with {self.repeats} inferences; {self.cpu_model}; "
            f"runner {self.runner}; {', '.join(f'{name} {text}' for name, text in versions.items())}; "
            f"{self.date:%Y-%m-%d %H:%M} UTC"
        )


def check(against: str, threads: Sequence[int], rounds: int, repeats: int) -> None:
    """What can be told before anything is built. Raises UsageError, or PeerError for a peer not installed."""
    if against not in PEERS:
        near = did_you_mean(against, PEERS)
        raise UsageError(f"unknown peer {against!r}", near or f"choose from {', '.join(PEERS)}")
    for name, values in {"threads": threads, "rounds": [rounds], "repeats": [repeats]}.items():
        if not values or min(values) < 1:
            raise UsageError(f"{name} is {min(values, default='empty')}", "give 1 or more")
    if find_spec(against) is None:
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
) -> Report:
    """Compare each artifact with the peer at each number of threads.

    The artifacts are of one model; device is this machine, where the peer runs too. root is the artifacts
    folder, which keeps the ONNX file. Raises UsageError, PeerError, and what the device raises.
    """
    check(against, threads, rounds, repeats)
    any_artifact = next(iter(artifacts_by_algorithm.values()))
    peer = prepare(against, model_spec, weights, any_artifact, root, progress)
    comparisons = {}
    for count in threads:
        cpus = parse_cpus(_run_ours(device, any_artifact, count, repeats=1).cpu_set)
        for algorithm, artifact in artifacts_by_algorithm.items():
            progress(f"{rounds} rounds of {algorithm} and {peer.name}, threads {count}")
            ours = partial(time_ours, device, artifact, count, repeats)
            theirs = partial(time_peer, peer, artifact, count, repeats, cpus)
            comparisons[algorithm, count] = compare(ours, theirs, rounds)
    return Report(
        model=model_spec.name,
        peer=peer,
        comparisons=comparisons,
        rounds=rounds,
        repeats=repeats,
        runner=device.runner,
        cpu_model=device.probe().cpu_model,
        versions=any_artifact.versions,
        date=datetime.now(UTC),
    )


def time_ours(device: Device, artifact: Artifact, threads: int, repeats: int) -> tuple[int, ...]:
    """Nanoseconds of each inference of one process of ours. Raises DeviceError, also for a wrong output."""
    return _run_ours(device, artifact, threads, repeats).samples_ns


def time_peer(
    peer: Peer, artifact: Artifact, threads: int, repeats: int, cpus: frozenset[int] = frozenset()
) -> list[int]:
    """Nanoseconds of each inference of one process of the peer, on these CPUs. Raises PeerError."""
    files = [str(artifact.path / name) for name in ("input.npy", "oracle.npy")]
    numbers = {"threads": threads, "warmups": WARMUPS, "repeats": repeats}
    options = [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
    command = [peer.name, peer.model, *files, *options, "--cpus", *map(str, sorted(cpus))]
    with lock.hold(lock.lock_folder() / lock.NAME, LOCK_WAIT_S):
        answer = _python("dlas.bench.peers", command, f"{peer.name} failed")
    samples_ns: list[int] = json.loads(answer.splitlines()[-1])["samples_ns"]
    return samples_ns


def prepare(
    name: str, spec: ModelSpec, weights: Weights, artifact: Artifact, root: Path, progress: Progress
) -> Peer:
    """The peer with the model that it reads, which is made once for each network. Raises PeerError."""
    text = format_network(spec, weights)
    if name == "torch":
        return Peer(name, version(name), text)
    # The oracle stands for the weights, and for the code that made them.
    oracle = hash_file(artifact.path / "oracle.npy")
    key = digest(text, oracle, str(OPSET), version("torch"), version("onnxscript"))
    folder = root / "bench" / key[:32]
    if not folder.is_dir():
        progress(f"exporting {spec.name} to ONNX")
        with atomic_folder(folder) as made:
            _python("dlas.bench.export", [text, str(made / "model.onnx")], f"{spec.name}: no export to ONNX")
    return Peer(name, version(name), str(folder / "model.onnx"))


def _run_ours(device: Device, artifact: Artifact, threads: int, repeats: int) -> JobResult:
    """One process of ours. Raises DeviceError when its output is wrong."""
    samples = measure(device, artifact, "fp32", threads, repeats)
    if samples.reason:
        raise DeviceError(f"{artifact.path.name}: {samples.reason}", "build it again")
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
    interval = f"{found.low:.3f} to {found.high:.3f}" if found.low > 0 else "too few rounds"
    return (*times, f"{found.ratio:.3f}", interval, found.verdict)
