"""What searches found against our other schedules and the peers: networks, or their convolutions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from dlas import sweep as sweeps
from dlas import sweepfile, tuned
from dlas.bench import benchmark, layers
from dlas.bench.benchmark import DENSE, Peer
from dlas.bench.compare import Run, take_turns
from dlas.bench.export import format_network
from dlas.bench.several import Contest, Effort, Report
from dlas.errors import DeviceError, UsageError, did_you_mean
from dlas.hardware import reach, targets
from dlas.hardware.cpu import parse_cpus
from dlas.measurement.measure import error_over_scale, find_fault
from dlas.stages import build_limit, obtain_artifact, obtain_layers
from dlas.sweep import Planned
from dlas.systems.autoschedule.record import tvm_version
from dlas.systems.autoschedule.workload import Choice
from dlas.trial import Settings, Shelf, Trial
from dlas.tuned import Tuned
from dlas.values import Device, Job, JobResult, Target, Weights
from dlas.worker import Worker

PLAIN = ("dense", "blocked")  # formats whose convolutions a peer can be given alone
SMALL = 64  # height and width of an input up to which `minimal` takes part: it is some 100 times slower
MINIMAL = "minimal dense"
MINIMAL_REPEATS = 3  # that each of its processes has, at most

Say = Callable[[str], None]
Cells = Mapping[str, Planned]  # of one network, by `contestants`


@dataclass(frozen=True)
class Rules:
    """How they are compared. layers: so many convolutions of each network, each alone; 0 for the networks."""

    against: tuple[str, ...]
    threads: tuple[int, ...]
    rounds: int
    layers: int = 0


def choose(
    model: str, dataset: str, compression: str, precision: str, algorithm: str, format: str
) -> tuple[Cells, ...]:
    """The cells of each network of the dataset whose name the glob matches. Raises UsageError."""
    if precision != "fp32":
        raise UsageError(f"only fp32 is tuned, not {precision}", "leave --precision out")
    known = sweepfile.ALLOWED["dataset"]
    if dataset not in known:
        near = did_you_mean(dataset, known) or f"choose from {', '.join(known)}"
        raise UsageError(f"unknown dataset {dataset!r}", near)
    loaded = sweepfile.load(sweepfile.OF_DATASET.get(dataset, dataset))
    values = {
        "model": tuple(name for name in loaded.axes["model"] if fnmatchcase(name, model)) or (model,),
        "dataset": (dataset,),
        "compression": (compression,),
        "precision": (precision,),
        "format": tuple(dict.fromkeys((format, "dense"))),
        "algorithm": (algorithm,),
        "tuning": ("tuned", "scheduled", "minimal"),
    }
    return group(sweeps.expand(sweepfile.narrow(loaded, values), [targets.load(sweepfile.HOST)]), format)


def group(planned: Sequence[Planned], format: str) -> tuple[Cells, ...]:
    """The contestants of each network, of cells in that format and in dense."""
    networks: dict[str, dict[str, Planned]] = {}
    for each in planned:
        networks.setdefault(each.cell.model.name, {})[f"{each.cell.tuning} {each.cell.format}"] = each
    return tuple(
        {name: cells[name] for name in contestants(format, next(iter(cells.values())).cell.model.input_shape)}
        for cells in networks.values()
    )


def contestants(format: str, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Ours, each by its tuning and format; the tuned one is the first.

    >>> contestants("blocked", (1, 3, 224, 224))
    ('tuned blocked', 'scheduled blocked', 'scheduled dense')
    """
    names = [f"tuned {format}", f"scheduled {format}", "scheduled dense"]
    if max(input_shape[2:]) <= SMALL:
        names.append(MINIMAL)
    return tuple(dict.fromkeys(names))


def check(networks: Sequence[Cells], rules: Rules, repeats: int) -> Target:
    """What can be told before anything is built; the cells' target. Raises UsageError or PeerError."""
    for name in rules.against:
        benchmark.check(name, rules.threads, rules.rounds, repeats)
    for what, values in {"peer": rules.against, "number of threads": rules.threads}.items():
        if len(set(values)) < len(values):
            raise UsageError(f"a {what} is named twice: {','.join(map(str, values))}", "name each once")
    for each in (planned for cells in networks for planned in cells.values()):
        if each.reason:
            raise UsageError(f"{each.cell.id}: {each.reason}", "choose another one")
    first = tuned_of(networks[0])
    if rules.layers and first.cell.format not in PLAIN:
        cause = f"convolutions of format {first.cell.format} are not compared alone"
        raise UsageError(cause, f"leave --layers out, or choose from {', '.join(PLAIN)}")
    if max(rules.threads) > first.target.board.threads:
        cause = f"{max(rules.threads)} threads on {first.target.board.threads} cores"
        raise UsageError(cause, "give fewer")
    return first.target


def tuned_of(cells: Cells) -> Planned:
    return next(iter(cells.values()))


def run(networks: Sequence[Cells], rules: Rules, settings: Settings, say: Say) -> Report:
    """Compare networks, or convolutions of theirs, with what is recorded of them; nothing is searched.

    Raises UsageError, also where nothing is recorded, PeerError, and what building and the device raise.
    """
    target = check(networks, rules, settings.repeats)
    device, why = reach.device(target, settings.access, settings.root, say)
    say(f"{target.name}: {why}")
    cell = tuned_of(networks[0]).cell
    contests: list[Contest] = []
    with Worker() as worker:
        bench = Bench(settings, worker, device, rules, say)
        found = [cells for cells in networks if bench.has_records(cells)]
        for cells in found:
            for threads in rules.threads:
                contests += bench.compare(cells, threads)
    if not contests:
        how = f"--dataset {cell.dataset} --algorithm {cell.algorithm} --format {cell.format}"
        cause = f"nothing is recorded of {cell.algorithm} {cell.format} for what was asked for"
        raise UsageError(cause, f"first `inv tune --model {cell.model.name} {how}`")
    return Report(
        contests=tuple(contests),
        algorithm=cell.algorithm,
        rounds=rules.rounds,
        repeats=settings.repeats,
        few_repeats={name: bench.repeats(name) for name in contests[0].times_ns if name == MINIMAL},
        block=target.compiler.vector_lanes if cell.format == "blocked" else 0,
        runner=device.runner,
        cpu_model=device.probe().cpu_model,
        versions=bench.versions,
        date=datetime.now(UTC),
    )


class Bench:
    """Builds and times; versions are those of what made ours, and of the peers."""

    def __init__(self, settings: Settings, worker: Worker, device: Device, rules: Rules, say: Say) -> None:
        self.settings, self.worker, self.device, self.rules = settings, worker, device, rules
        self.say = say
        self.versions: dict[str, str] = {}
        self._shelf = Shelf(settings, lambda _: None)

    def repeats(self, name: str) -> int:
        """Inferences of each process of ours."""
        return min(self.settings.repeats, MINIMAL_REPEATS) if name == MINIMAL else self.settings.repeats

    def has_records(self, cells: Cells) -> bool:
        """Whether a convolution of the network has a record; if none has, says so."""
        trial = self.trial(tuned_of(cells))
        if trial.tuned and trial.tuned.records:
            return True
        self.say(f"{trial.cell.id}: no convolution has a record, so it is left out")
        return False

    def compare(self, cells: Cells, threads: int) -> Iterator[Contest]:
        """The network's contest, or one for each of its largest convolutions."""
        trial = self.trial(tuned_of(cells), threads)
        if trial.tuned is None:
            raise ValueError("a tuned trial has its workloads listed")
        effort = find_effort(trial.tuned, self.settings.root, trial.planned.target)
        self.say(f"{trial.cell.id}, threads {threads}: {effort}")
        if self.rules.layers:
            yield from self._compare_layers(trial, trial.tuned, effort, threads)
        else:
            yield self._compare_networks(cells, trial, effort, threads)

    def _compare_networks(self, cells: Cells, trial: Trial, effort: Effort, threads: int) -> Contest:
        built = {}
        for name, planned in cells.items():
            each = self.trial(planned, threads)
            if not each.artifact_folder.is_dir():
                self.say(f"building {each.cell.id}")
            built[name] = obtain_artifact(each, self.worker)
        runs: dict[str, Run] = {}
        for name, artifact in built.items():
            runs[name] = partial(benchmark.time_ours, self.device, artifact, threads, self.repeats(name))
            self.versions |= artifact.versions
        network = format_network(trial.cell.model, trial.weights, trial.network.resolved)
        tuned_one = next(iter(built.values()))
        cpu_set = benchmark.run_ours(self.device, tuned_one, "fp32", threads, repeats=1).cpu_set
        runs |= self._peers(network, tuned_one, threads, cpu_set)
        return self._take_turns(Contest(trial.cell.model.name, threads, {}, (), effort), runs)

    def _compare_layers(self, trial: Trial, found: Tuned, effort: Effort, threads: int) -> Iterator[Contest]:
        for name, macs in layers.find_largest(found.workloads, self.rules.layers).items():
            contest = Contest(
                trial.cell.model.name, threads, {}, (), effort, layer=layers.shorten(name), macs=macs
            )
            if name not in found.choices:
                self.say(f"{trial.cell.model.name}: {contest.layer} has no record, so it is left out")
                continue
            with TemporaryDirectory() as temporary:
                yield self._compare_layer(contest, trial, name, found.choices[name], Path(temporary))

    def _compare_layer(
        self, contest: Contest, trial: Trial, workload: str, choice: Choice, folder: Path
    ) -> Contest:
        format, threads, limit = trial.cell.format, contest.threads, build_limit(self.settings)
        runs: dict[str, Run] = {}
        spec = layers.as_network(workload)
        alone = Variant(folder / "peers")
        alone.path.mkdir()
        self.worker.call(trial.log, limit, layers.save_network, spec, alone.path)
        for name, chosen in {f"tuned {format}": choice, f"scheduled {format}": None}.items():
            variant = Variant(folder / name.split()[0])
            variant.path.mkdir()
            compiler = trial.planned.target.compiler
            self.worker.call(trial.log, limit, layers.build_variant, workload, compiler, chosen, variant.path)
            result = variant.run(self.device, threads, repeats=1)
            self.versions["apache-tvm"] = tvm_version()
            runs[name] = partial(variant.time, self.device, threads, self.settings.repeats)
        network = format_network(spec, Weights("untrained"), DENSE)
        runs |= self._peers(network, alone, threads, result.cpu_set)
        return self._take_turns(contest, runs)

    def _take_turns(self, contest: Contest, runs: Mapping[str, Run]) -> Contest:
        what = f"{contest.network} {contest.layer}".strip()
        self.say(f"{self.rules.rounds} rounds of {what}, threads {contest.threads}: {', '.join(runs)}")
        return replace(contest, times_ns=take_turns(runs, self.rules.rounds), peers=self.rules.against)

    def _peers(self, network: str, files: benchmark.Files, threads: int, cpu_set: str) -> dict[str, Run]:
        """Each peer on the CPUs that ours ran on."""
        runs: dict[str, Run] = {}
        for name in self.rules.against:
            peer: Peer = benchmark.prepare(name, network, files, self.settings.root, self.say)
            self.versions[peer.name] = peer.version
            cpus = parse_cpus(cpu_set)
            runs[name] = partial(benchmark.time_peer, peer, files, threads, self.settings.repeats, cpus)
        return runs

    def trial(self, planned: Planned, threads: int = 1) -> Trial:
        """The cell on so many threads, its workloads listed. Raises UsageError where it cannot be made."""
        settings = replace(self.settings, threads=threads)
        trial = Trial(planned, 0, settings, None, self._shelf.find(planned.cell.dataset))
        if trial.network.fault is not None:
            raise trial.network.fault
        if not trial.network.is_resolved:
            raise UsageError(f"{trial.cell.id}: {trial.network.compression}", "run its sweep first")
        return obtain_layers(trial, self.worker)


@dataclass(frozen=True)
class Variant:
    """A convolution alone, in a folder: model.so where it is ours, input.npy and oracle.npy."""

    path: Path

    def time(self, device: Device, threads: int, repeats: int) -> tuple[int, ...]:
        """Nanoseconds of each inference of one process. Raises DeviceError, also for a wrong output."""
        return self.run(device, threads, repeats).samples_ns

    def run(self, device: Device, threads: int, repeats: int) -> JobResult:
        """Raises DeviceError, also for a wrong output."""
        import numpy as np

        array, oracle = (np.load(self.path / f"{name}.npy") for name in ("input", "oracle"))
        result = device.run(Job(self.path / "model.so", array[None], oracle.shape, threads, repeats))
        error = error_over_scale(result.outputs[0], oracle)
        if fault := find_fault(error, "fp32", result.output_stable, "the oracle"):
            raise DeviceError(f"{self.path.name}: {fault}", "take its records out, and tune it again")
        return result


def find_effort(found: Tuned, root: Path, target: Target) -> Effort:
    """What the choices of a network cost. Raises StorageError for damaged records."""
    database, records = tuned.open_database(root, target), found.records.values()
    return Effort(
        convolutions=len(found.workloads),
        with_record=sum(name in found.records for name in found.workloads),
        searches=len(records),
        trials=found.trials,
        most=max((database.effort(record).trials for record in records), default=0),
        threads=tuple(sorted({record.threads for record in records})),
        imported=sum(not record.compiler for record in records),
    )
