"""Tuning: the workloads of a sweep's cells or of one network are searched, and the records looked after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from dlas import cache, sweepfile, tuned
from dlas import sweep as sweeps
from dlas.candidates import CORE, Core
from dlas.errors import UsageError, did_you_mean
from dlas.hardware import targets
from dlas.plan import duration
from dlas.progress import Progress
from dlas.stages import obtain_layers
from dlas.sweep import Planned
from dlas.sweeptables import Budget
from dlas.systems.autoschedule import exchange
from dlas.systems.autoschedule.record import Record, Standing, digest_of
from dlas.systems.autoschedule.records import FOLDER, Database, path_of
from dlas.tomlfile import shown
from dlas.trial import Place, Places, Settings, Shelf, Trial
from dlas.tuners import Search
from dlas.values import Target
from dlas.worker import Worker

ACTIONS = ("list", "export", "import", "prune")
_HEADINGS = ("trials", "hand ms", "best ms", "speed-up", "workload")
_NONE = "-"


def obtain_tuned(trial: Trial, worker: Worker, progress: Progress, core: Core = CORE) -> Trial:
    """The trial with the records of its workloads, which are searched for now where it has a device.

    A trial of another tuning stays as it is. Raises what listing the workloads and `Search.run` raise.
    """
    if not trial.is_tuned:
        return trial
    progress.stage(trial.cell.id, "listing its convolutions")
    trial = obtain_layers(trial, worker)
    if trial.must_tune and trial.place and trial.tuned:
        settings, target = trial.settings, trial.planned.target
        Search(
            target=target,
            places=[trial.place],
            root=settings.root,
            database=tuned.open_database(settings.root, target, progress.say),
            budget=trial.planned.budget,
            progress=progress,
            title=trial.cell.id,
            threads=tuned.THREADS,
            retries=settings.retries,
            build_timeout_s=settings.build_timeout_s,
            core=core,
        ).run(tuple(trial.tuned.lacking))
        trial = trial.renewed()
    _say_missing(trial, progress)
    return trial


def _say_missing(trial: Trial, progress: Progress) -> None:
    found = trial.tuned
    if found is None:
        return
    names = dict.fromkeys(found.workloads)
    if found.missing:
        what = f"{len(found.missing)} of {len(names)} workloads have no record and get the hand schedule"
        progress.say(f"{trial.cell.id}: {what}")
    if found.lacking:
        why = "an emulated device makes none" if trial.place else "`invoke run` and `invoke tune` make them"
        progress.say(f"{trial.cell.id}: {len(found.lacking)} of {len(names)} workloads lack trials; {why}")


def choose(
    sweep: str,
    model: str,
    dataset: str,
    compression: str,
    algorithms: Sequence[str],
    format: str,
    target: Target,
) -> tuple[Planned, ...]:
    """Tuned cells of one network. An empty sweep is the dataset's own. Raises UsageError."""
    if dataset not in sweepfile.ALLOWED["dataset"]:
        known = sweepfile.ALLOWED["dataset"]
        near = did_you_mean(dataset, known) or "give one of them"
        raise UsageError(f"unknown dataset {dataset!r}, known are {', '.join(known)}", near)
    loaded = sweepfile.load(sweep or sweepfile.OF_DATASET.get(dataset, dataset))
    values = {
        "model": (model,),
        "dataset": (dataset,),
        "compression": (compression,),
        "precision": ("fp32",),
        "format": (format,),
        "algorithm": tuple(dict.fromkeys(algorithms)),
        "tuning": ("tuned",),
    }
    return sweeps.expand(sweepfile.narrow(loaded, values), [target])


def tune(
    planned: Sequence[Planned],
    settings: Settings,
    hosts: Sequence[str],
    budget: Budget,
    only: str,
    progress: Progress,
    core: Core = CORE,
) -> str:
    """Search the workloads of cells of one target, and return `to_table` of what is recorded of them.

    hosts: of the devices, as in `reach.Access`; one "" for the target's own. only: glob of workload ids.
    Raises UsageError, and what listing the workloads and `Search.run` raise.
    """
    for each in planned:
        if each.unbuildable:
            raise UsageError(f"{each.cell.id}: {each.unbuildable}", "tune another one")
    cache.remove_leftovers(settings.root)
    target = planned[0].target
    places = _places(target, settings, hosts, progress)
    names = _workloads(planned, settings, only, progress)
    database = tuned.open_database(settings.root, target, progress.say)
    threads = settings.threads or tuned.THREADS
    before = _seconds(database, target, threads, names)
    Search(
        target=target,
        places=places,
        root=settings.root,
        database=database,
        budget=budget,
        progress=progress,
        title=planned[0].cell.model.name,
        threads=threads,
        retries=settings.retries,
        build_timeout_s=settings.build_timeout_s,
        core=core,
    ).run(names)
    compiler = digest_of(target.compiler)
    lines = {name: _line(database.standing(name, compiler, threads)) for name in names}
    seconds = _seconds(database, target, threads, names)
    spent = f"{duration(seconds)} of building and measuring in all, {duration(seconds - before)} of it now"
    return f"{to_table(lines)}\n{spent}; {shown(database.path)}"


def _places(target: Target, settings: Settings, hosts: Sequence[str], progress: Progress) -> list[Place]:
    """The devices. Raises UsageError where they are several kinds or emulated, and what reaching raises."""
    if len(set(hosts)) < len(hosts):
        raise UsageError(f"a device is named twice: {','.join(hosts)}", "name each once")
    places = []
    for host in hosts:
        place = Places(replace(settings, device=host, threads=0, retries=0), progress.say).of(target)
        if not isinstance(place, Place):
            raise place
        places.append(place)
    if any(place.device.emulated for place in places):
        raise UsageError(f"{target.name}: an emulated device tells no times", "tune on the board itself")
    models = sorted({place.facts.cpu_model for place in places})
    if len(models) > 1:
        raise UsageError(f"the devices are of several kinds: {', '.join(models)}", "name those of one kind")
    threads = settings.threads or tuned.THREADS
    if threads > target.board.threads:
        raise UsageError(f"{threads} threads on {target.board.threads} cores", "give fewer")
    return places


def _workloads(
    planned: Sequence[Planned], settings: Settings, only: str, progress: Progress
) -> tuple[str, ...]:
    """Those of the cells, each once. Raises UsageError where there is none, and what building raises."""
    shelf, names = Shelf(settings, lambda _: None), dict[str, None]()
    with Worker(progress.note) as worker:
        for each in planned:
            trial = Trial(each, 0, settings, None, shelf.find(each.cell.dataset))
            if not trial.network.is_resolved:
                raise UsageError(f"{each.cell.id}: {trial.network.compression}", "run its sweep first")
            progress.stage(each.cell.id, "listing its convolutions")
            found = obtain_layers(trial, worker).tuned
            names |= dict.fromkeys(found.workloads if found else ())
    chosen = tuple(name for name in names if fnmatchcase(name, only))
    if not chosen:
        raise UsageError(f"no workload matches {only!r}", f"they are {', '.join(names) or 'none'}")
    return chosen


def _seconds(database: Database, target: Target, threads: int, names: Sequence[str]) -> float:
    compiler = digest_of(target.compiler)
    return sum(database.standing(name, compiler, threads).seconds for name in names)


def act(action: str, path: str, target: str, artifacts: Path) -> str:
    """What `invoke tuning` does, and what there is to say of it.

    target: a name or a file; empty is all that have records for `list` and `prune`, this machine for the
    others. Raises UsageError, StorageError.
    """
    if action not in ACTIONS:
        near = did_you_mean(action, ACTIONS) or f"choose from {', '.join(ACTIONS)}"
        raise UsageError(f"unknown action {action!r}", near)
    if action in ("export", "import"):
        if not path:
            raise UsageError(f"{action} needs a file", "name it with --path")
        chosen = targets.load(target or sweepfile.HOST)
        database = Database.open(path_of(artifacts, chosen.name), print)
        if action == "export":
            count = exchange.export(database, Path(path), chosen.compiler)
            return f"{chosen.name}: the best of {count} workloads are in {path}"
        count = exchange.take_in(database, Path(path), chosen.compiler)
        return f"{chosen.name}: {count} choices were new"
    if target:
        paths = [path_of(artifacts, targets.load(target).name)]
    else:
        paths = sorted((artifacts / FOLDER).glob("*.jsonl"))
    parts = [act_on(action, Database.open(each, print)) for each in paths]
    return "\n\n".join(parts) or "there are no records; `invoke tune` makes them"


def act_on(action: str, database: Database) -> str:
    """`list` or `prune` the records of one target."""
    if action == "prune":
        before, after = database.prune()
        return f"{database.path.stem}: {after} of {before} records stay, and the trials of all"
    titles: dict[str, dict[str, tuple[str, ...]]] = {}
    for (workload, compiler, threads), found in database.groups.items():
        for record in found[-1:] if compiler else found:  # each imported one is of a search of its own
            line = _line(database.effort(record), record.hand_ns)
            titles.setdefault(_title(record, threads), {})[workload] = line
    parts = [f"{database.path.stem}, {title}\n{to_table(titles[title])}" for title in sorted(titles)]
    return "\n\n".join(parts) or f"{database.path.stem}: there are no records; `invoke tune` makes them"


def _title(record: Record, threads: int) -> str:
    origin = f"compiler {record.compiler[:8]}" if record.compiler else "imported"
    return f"{record.device_model}, {threads} thread{'s' * (threads != 1)}, {origin}, TVM {record.tvm}"


def _line(found: Standing, hand_ns: int | None = None) -> tuple[str, ...]:
    hand_ns, best_ns = hand_ns or found.hand_ns, found.best_ns
    return (
        str(found.trials),
        f"{hand_ns / 1e6:.3f}" if hand_ns else _NONE,
        f"{best_ns / 1e6:.3f}" if best_ns else _NONE,
        f"{hand_ns / best_ns:.2f}x" if hand_ns and best_ns else _NONE,
    )


def to_table(lines: Mapping[str, tuple[str, ...]]) -> str:
    """A line for each workload, under a heading. No newline at the end."""
    table = [_HEADINGS, *((*line, workload) for workload, line in lines.items())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    text = []
    for *numbers, workload in table:
        padded = [number.rjust(width) for number, width in zip(numbers, widths, strict=False)]
        text.append("  ".join(["", *padded, workload]))
    return "\n".join(text)
