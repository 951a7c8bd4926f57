"""The story of a sweep: each cell is trained, tuned, built, measured on its device, and kept as a row."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dlas import cache
from dlas.errors import (
    DataError,
    DeviceBusyError,
    DlasError,
    StorageError,
    SweepIncomplete,
    UsageError,
)
from dlas.hardware import reach
from dlas.measurement.accuracy import take_accuracy
from dlas.measurement.measure import measure
from dlas.measurement.patience import persist
from dlas.progress import Progress
from dlas.results import row as rows
from dlas.results import store
from dlas.results.identity import identify
from dlas.stages import obtain_artifact, obtain_evaluation, obtain_network, obtain_quantized
from dlas.sweep import Planned
from dlas.sweepfile import ALLOWED
from dlas.trial import Place, Settings, Shelf, Trial, trials
from dlas.tuning import obtain_tuned
from dlas.values import Artifact, Row, Target
from dlas.worker import Worker


def run_sweep(planned: Sequence[Planned], settings: Settings, progress: Progress) -> list[Row]:
    """Run every cell that has no row yet and return all rows, in the end those that failed too.

    Raises DlasError when no cell can run: no device, no place to write.
    """
    cache.remove_leftovers(settings.root)
    done = []
    open_trials = []
    for trial in trials(planned, settings, progress.say):
        row = None if trial.absence else trial.cached()
        if row is None:
            open_trials.append(trial)
        else:
            progress.say(f"{trial.cell.id}: {row.status}, cached")
            done.append(row)
    absences = [trial.absence for trial in open_trials if trial.absence]
    if absences and not done and len(absences) == len(open_trials):
        raise absences[0]
    progress.start(len(open_trials))
    with Worker(progress.note) as worker:
        for trial in open_trials:
            row = run_trial(trial, worker, progress)
            progress.finish(trial.cell.id, row)
            if row.status in ("failed", "quarantined") and store.find(
                settings.root, settings.sweep, identify(row)
            ):
                progress.say(f"{trial.cell.id}: the row of an earlier run stays")
            else:
                store.write(settings.root, row)
            done.append(row)
    return done


def check(done: Sequence[Row], root: Path) -> None:
    """Raises SweepIncomplete when a row has no result."""
    bad = [row for row in done if row.status not in store.FINAL_STATUSES]
    if bad:
        kinds = Counter("are quarantined" if row.status == "quarantined" else "failed" for row in bad)
        what = " and ".join(f"{count} of {len(done)} cells {kind}" for kind, count in kinds.items())
        raise SweepIncomplete(
            f"{what}, the first is {bad[0].cell}",
            f"see {root / bad[0].log}; the same command tries again",
        )


def run_trial(trial: Trial, worker: Worker, progress: Progress) -> Row:
    """Train, tune, build, check and time one cell. What goes wrong with it becomes its row."""
    started_at, place, artifact, row = datetime.now(UTC), trial.place, None, None
    if trial.absence:
        return rows.failed(trial.blank(started_at), str(trial.absence))
    if place is None:
        return rows.invalid(trial.blank(started_at), trial.invalid_reason)
    settings = trial.settings
    try:
        trial = obtain_network(trial, worker, progress)
        if trial.invalid_reason:
            trial = replace(trial, place=None)
            return rows.invalid(trial.blank(started_at), trial.invalid_reason)
        trial = obtain_tuned(trial, worker, progress)
        progress.stage(trial.cell.id, "building")
        artifact = obtain_artifact(trial, worker)
        progress.stage(trial.cell.id, f"measuring ({place.device.runner})")
        ask = partial(
            measure,
            place.device,
            artifact,
            trial.cell.precision,
            place.threads,
            settings.repeats,
            settings.job_timeout_s,
            trial.planned.target.bounds,
        )
        samples = persist(ask, place.device.probe, settings.retries, progress.say)
        append_log(trial.log, samples.result.log)
        row = rows.measured(trial.blank(started_at), artifact, samples)
        if row.status != "wrong_output":
            row = judge(row, trial, place, artifact, worker, progress)
    except (StorageError, DeviceBusyError):
        raise  # a full disk will not take the row either; and a busy device is no fault of the cell
    except DlasError as error:
        append_log(trial.log, "".join(traceback.format_exception(error)))
        return rows.failed(row or trial.blank(started_at), str(error), artifact)
    append_log(trial.log, f"{row.status} {row.reason}\n")
    return row


def judge(
    row: Row, trial: Trial, place: Place, artifact: Artifact, worker: Worker, progress: Progress
) -> Row:
    """The row with the accuracy of its artifact, or with the reason why images and network do not fit."""
    try:
        progress.stage(trial.cell.id, "the oracle's predictions")
        evaluation = obtain_evaluation(trial, worker)
        if evaluation is None:
            return row
        progress.stage(trial.cell.id, f"accuracy ({place.device.runner})")
        ask = partial(
            take_accuracy,
            place.device,
            artifact,
            evaluation,
            trial.cell.precision,
            place.threads,
            trial.settings.job_timeout_s,
        )
        accuracy = persist(ask, place.device.probe, trial.settings.retries, progress.say)
    except (DataError, UsageError) as error:  # also ModelError: another try would end the same way
        progress.say(f"{trial.cell.id}: no accuracy: {error}")
        return rows.without_accuracy(row, str(error))
    return rows.with_accuracy(row, accuracy, evaluation)


def build_sweep(planned: Sequence[Planned], settings: Settings, progress: Progress) -> None:
    """Compile every cell that can be, and measure none. Raises SweepIncomplete when one does not compile."""
    failures, shelf = [], Shelf(settings, progress.say)
    with Worker(progress.note) as worker:
        progress.start(len(planned))
        for each in planned:
            if each.unbuildable:
                progress.done(each.cell.id, f"invalid: {each.unbuildable}")
                continue
            try:
                trial = Trial(each, 0, settings, None, shelf.find(each.cell.dataset))
                trial = obtain_network(trial, worker, progress)
                if trial.network.invalid_reason:
                    progress.done(each.cell.id, f"invalid: {trial.network.invalid_reason}")
                    continue
                trial = obtain_tuned(trial, worker, progress)
                progress.stage(each.cell.id, "building")
                artifact = obtain_artifact(trial, worker)
                progress.done(each.cell.id, str(artifact.path))
            except StorageError:
                raise  # a full disk will not take the next one either
            except DlasError as error:
                failures.append(each.cell.id)
                progress.done(each.cell.id, f"failed: {error}")
    if failures:
        raise SweepIncomplete(f"{len(failures)} of {len(planned)} cells failed", "see their lines above")


def build_image(target: Target, root: Path, base: str, say: Callable[[str], None]) -> str:
    """Build a target's container image, or its runner where it has none; returns a line that says which."""
    from dlas.hardware import image, runner

    if target.image is None:
        return f"{target.name} needs no image: its runner is {runner.build_runner(target, root, say).folder}"
    built = image.build_image(target, root, base, say)
    return f"{target.image_tag}: {built.id}" + (f", on the stand-in {built.base}" if built.stand_in else "")


def run_bench(
    planned: Sequence[Planned],
    precision: str,
    algorithms: Sequence[str],
    settings: Settings,
    against: str,
    threads: Sequence[int],
    rounds: int,
    progress: Progress,
) -> Any:
    """Compare the cells of one precision with a peer, or with those of fp32; the result prints itself.

    planned: of one network. Raises UsageError, PeerError, and what building and the device raise.
    """
    from dlas.bench import benchmark

    benchmark.check(against, threads, rounds, settings.repeats, precision)
    data = Shelf(settings, lambda _: None).find(planned[0].cell.dataset)
    target = planned[0].target
    if max(threads) > target.board.threads:
        raise UsageError(f"{max(threads)} threads on {target.board.threads} cores", "give fewer")

    def build_all(precision: str, algorithms: Sequence[str]) -> tuple[dict[str, Artifact], Trial]:
        cells = {each.cell.algorithm: each for each in planned if each.cell.precision == precision}
        unknown = [name for name in algorithms if name not in cells]
        if unknown or not cells or len({each.cell.model.name for each in planned}) > 1:
            what = f"unknown algorithm {unknown[0]!r}" if unknown else "more than one network"
            raise UsageError(what, f"name one network, and algorithms of {', '.join(cells)}")
        built = {}
        for name in algorithms:
            trial = Trial(cells[name], 0, settings, None, data)
            if not trial.network.is_resolved:
                raise UsageError(f"{trial.cell.id}: {trial.network.compression}", "run its sweep first")
            progress.say(f"building {trial.cell.id}")
            built[name] = obtain_artifact(trial, worker)
        return built, trial

    with Worker() as worker:
        built, trial = build_all(precision, algorithms)
        folder = obtain_quantized(trial, worker)
        fp32 = build_all("fp32", ALLOWED["algorithm"])[0] if against == "fp32" else {}
    device, why = reach.device(target, settings.access, settings.root, progress.say)
    progress.say(f"{target.name}: {why}")
    return benchmark.run(
        built,
        trial.cell.model,
        trial.weights,
        device,
        against,
        threads,
        rounds,
        settings.repeats,
        settings.root,
        progress.say,
        precision=precision,
        quantized=folder and folder / "model.onnx",
        fp32=fp32,
        compression=trial.network.resolved,
    )


def run_sparse_bench(
    planned: Sequence[Planned],
    algorithms: Sequence[str],
    levels: Sequence[int],
    pruning: str,
    format: str,
    layers: int,
    settings: Settings,
    against: str,
    threads: Sequence[int],
    rounds: int,
    progress: Progress,
) -> Any:
    """Compare dense cells with themselves pruned, and with a peer: see `dlas.bench.sparse`."""
    from dlas.bench import sparse

    cut = sparse.Cut(tuple(levels), pruning, format, layers)
    return sparse.run(planned, algorithms, cut, settings, against, threads, rounds, progress.say)


def run_tuned_bench(
    cells: Sequence[str],
    against: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    layers: int,
    settings: Settings,
    progress: Progress,
) -> Any:
    """Compare what searches found with our other schedules and with peers: see `dlas.bench.tuned`.

    cells: the arguments of its `choose`.
    """
    from dlas.bench import tuned

    rules = tuned.Rules(tuple(against), tuple(threads), rounds, layers)
    return tuned.run(tuned.choose(*cells), rules, settings, progress.say)


def run_results_bench(rows: int, say: Callable[[str], None]) -> str:
    """What so many made rows cost to load and to report: see `dlas.bench.results`."""
    from dlas.bench import results

    return results.run(rows, say)


def append_log(path: Path, text: str) -> None:
    if text:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
