"""Sparse against dense: networks or layers, pruned further and further, beside our dense and a peer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from dlas.bench import benchmark
from dlas.bench.break_even import Contest, Level, Report
from dlas.bench.compare import Run, take_turns
from dlas.bench.export import format_network
from dlas.bench.layers import Layer, list_layers
from dlas.compression import notation
from dlas.errors import UsageError, did_you_mean
from dlas.hardware import reach
from dlas.hardware.cpu import parse_cpus
from dlas.stages import build_limit, obtain_artifact
from dlas.sweep import Planned
from dlas.sweepfile import ALLOWED
from dlas.trial import Settings, Shelf, Trial
from dlas.values import Artifact, Compression, Device
from dlas.worker import Worker

PRUNINGS = ("uniform", "weight")
FORMATS = tuple(name for name in ALLOWED["format"] if name not in ("dense", "blocked"))
DENSE, PEER = "dense", "peer"  # beside the levels, what takes turns

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cut:
    """How networks are pruned, and computed then.

    levels: in per cent, rising. pruning: uniform, or weight, over all layers together. format: csr,
    csr_packed or auto. layers: how many of each network, those with the most multiply-adds, are taken alone;
    0 for the networks.
    """

    levels: tuple[int, ...]
    pruning: str
    format: str
    layers: int = 0


def check(planned: Sequence[Planned], cut: Cut) -> None:
    """Raises UsageError for what can be told to be wrong before anything is built."""
    levels = cut.levels
    for what, value, known in (("pruning", cut.pruning, PRUNINGS), ("sparse format", cut.format, FORMATS)):
        if value not in known:
            near = did_you_mean(value, known) or f"choose from {', '.join(known)}"
            raise UsageError(f"unknown {what} {value!r}", near)
    if not levels or tuple(sorted(set(levels))) != levels or not 0 < levels[0] <= levels[-1] < 100:
        raise UsageError(
            f"levels are {','.join(map(str, levels)) or 'empty'}", "give per cents from 1 to 99, rising"
        )
    for cell in (each.cell for each in planned):
        if (cell.compression, cell.precision, cell.format) != ("dense", "fp32", "dense"):
            raise UsageError(
                f"{cell.id} is not dense fp32", "leave --compression and --precision out: --levels prunes"
            )


def run(
    planned: Sequence[Planned],
    algorithms: Sequence[str],
    cut: Cut,
    settings: Settings,
    against: str,
    threads: Sequence[int],
    rounds: int,
    say: Say,
) -> Report:
    """Compare networks pruned to some levels with themselves, dense, and with a peer.

    planned: dense cells, one for each network and algorithm. algorithms: those to try; the fastest at the
    middle level is compared. Raises UsageError, PeerError, and what building and the device raise.
    """
    check(planned, cut)
    benchmark.check(against, threads, rounds, settings.repeats)
    target = planned[0].target
    if max(threads) > target.board.threads:
        raise UsageError(f"{max(threads)} threads on {target.board.threads} cores", "give fewer")
    device, why = reach.device(target, settings.access, settings.root, say)
    say(f"{target.name}: {why}")
    contests: list[Contest] = []
    with Worker() as worker:
        bench = Bench(settings, worker, device, against, rounds, say)
        for name, cells in subjects(planned, cut.layers, settings, worker).items():
            contests += bench.compare(name, cells, algorithms, cut, threads)
    return Report(
        contests=tuple(contests),
        format=cut.format,
        against=against,
        rounds=rounds,
        repeats=settings.repeats,
        runner=device.runner,
        cpu_model=device.probe().cpu_model,
        versions=bench.versions,
        date=datetime.now(UTC),
    )


def subjects(
    planned: Sequence[Planned], layers: int, settings: Settings, worker: Worker
) -> dict[str, dict[str, Planned]]:
    """What is compared, by name and algorithm: the networks, or layers of theirs, each once."""
    networks: dict[str, dict[str, Planned]] = {}
    for each in planned:
        networks.setdefault(each.cell.model.name, {})[each.cell.algorithm] = each
    if not layers:
        return networks
    found: dict[str, dict[str, Planned]] = {}
    for cells in networks.values():
        spec = next(iter(cells.values())).cell.model
        log = settings.root / "logs" / "bench" / "layers.log"
        chosen: list[Layer] = worker.call(log, build_limit(settings), list_layers, spec, layers)
        for layer in chosen:
            alone = {
                name: replace(each, cell=replace(each.cell, model=layer.spec, recipe="", finetuning=""))
                for name, each in cells.items()
            }
            found.setdefault(layer.spec.name, alone)
    return found


class Bench:
    """Builds and times; versions are those of what made ours, and of the peer."""

    def __init__(
        self, settings: Settings, worker: Worker, device: Device, against: str, rounds: int, say: Say
    ) -> None:
        self.settings, self.worker, self.device, self.against = settings, worker, device, against
        self.rounds, self.say = rounds, say
        self.versions: dict[str, str] = {}
        self._shelf = Shelf(settings, lambda _: None)

    def compare(
        self,
        name: str,
        cells: Mapping[str, Planned],
        algorithms: Sequence[str],
        cut: Cut,
        threads: Sequence[int],
    ) -> list[Contest]:
        """A contest for each number of threads."""
        unknown = [algorithm for algorithm in algorithms if algorithm not in cells]
        if unknown:
            raise UsageError(f"unknown algorithm {unknown[0]!r}", f"choose from {', '.join(cells)}")
        if cut.layers:  # alone, a layer is its network's first, which uniform pruning leaves dense
            cut = replace(cut, pruning="weight")
        dense = {algorithm: self.build(each) for algorithm, each in cells.items()}
        trial = self.trial(next(iter(cells.values())))
        network = format_network(trial.cell.model, trial.weights, trial.network.resolved)
        any_dense = next(iter(dense.values()))
        peer = benchmark.prepare(self.against, network, any_dense, self.settings.root, self.say)
        self.versions |= {**any_dense.versions, peer.name: peer.version}
        middle = cut.levels[len(cut.levels) // 2]
        tried = {each: self.build(cells[each], *self._pruned(cut, middle)) for each in algorithms}
        contests = []
        for count in threads:
            find = partial(benchmark.find_best, self.device, threads=count, repeats=self.settings.repeats)
            algorithm, dense_algorithm = find(tried), find(dense)
            built = {
                str(level): self.build(cells[algorithm], *self._pruned(cut, level)) for level in cut.levels
            }
            runs: dict[str, Run] = {
                key: partial(benchmark.time_ours, self.device, artifact, count, self.settings.repeats)
                for key, artifact in {DENSE: dense[dense_algorithm], **built}.items()
            }
            cpus = parse_cpus(benchmark.run_ours(self.device, any_dense, "fp32", count, repeats=1).cpu_set)
            runs[PEER] = partial(benchmark.time_peer, peer, any_dense, count, self.settings.repeats, cpus)
            self.say(f"{self.rounds} rounds of {name}, {algorithm}, threads {count}")
            times = take_turns(runs, self.rounds)
            contests.append(
                Contest(
                    name=name,
                    threads=count,
                    pruning=cut.pruning,
                    algorithm=algorithm,
                    dense_algorithm=dense_algorithm,
                    dense_ns=times[DENSE],
                    peer_ns=times[PEER],
                    levels=tuple(_level(int(key), made, times[key]) for key, made in built.items()),
                )
            )
        return contests

    def trial(self, planned: Planned, compression: str = "dense", format: str = "dense") -> Trial:
        """A cell of that compression and format. Raises UsageError where its network is not there."""
        cell = replace(planned.cell, compression=compression, format=format)
        data = self._shelf.find(cell.dataset)
        trial = Trial(replace(planned, cell=cell), 0, self.settings, None, data)
        if trial.network.fault is not None:
            raise trial.network.fault
        if not trial.network.is_resolved:
            raise UsageError(
                f"{trial.cell.id}: {trial.network.compression}", "give such levels, or --pruning uniform"
            )
        return trial

    def build(self, planned: Planned, compression: str = "dense", format: str = "dense") -> Artifact:
        """The artifact of that cell, from the cache or made now. Raises as `trial`, and as building does."""
        trial = self.trial(planned, compression, format)
        if not trial.artifact_folder.is_dir():
            self.say(f"building {trial.cell.id}")
        return obtain_artifact(trial, self.worker)

    @staticmethod
    def _pruned(cut: Cut, percent: int) -> tuple[str, str]:
        return notation.write(Compression(cut.pruning, percent / 100)), cut.format


def _level(percent: int, artifact: Artifact, times_ns: tuple[float, ...]) -> Level:
    return Level(
        percent=percent,
        ours_ns=times_ns,
        zeros=artifact.weight_sparsity_fraction,
        zero_macs=artifact.mac_sparsity_fraction,
        sparse=artifact.ops_sparse,
        convolutions=artifact.ops_total,
        bytes=artifact.weight_bytes,
    )
