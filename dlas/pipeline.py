"""The story of a sweep: each cell is built, measured on its device, and kept as a row."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dlas import cache
from dlas.errors import DlasError, StorageError, SweepIncomplete, UsageError
from dlas.hardware import device as devices
from dlas.measurement.measure import measure
from dlas.progress import Progress
from dlas.results import row as rows
from dlas.results import store
from dlas.sweep import Planned
from dlas.systems import artifact as artifacts
from dlas.trial import Places, Settings, Trial, trials
from dlas.values import Artifact, Cell, Row, Target
from dlas.worker import Worker


def run_sweep(planned: Sequence[Planned], settings: Settings, progress: Progress) -> list[Row]:
    """Run every cell that has no row yet and return all rows, in the end those that failed too.

    Raises DlasError when no cell can run: no device, no place to write.
    """
    cache.remove_leftovers(settings.root)
    done = []
    open_trials = []
    for trial in trials(planned, settings, Places(settings, progress.say)):
        row = trial.cached()
        if row is None:
            open_trials.append(trial)
        else:
            progress.say(f"{trial.cell.id}: {row.status}, cached")
            done.append(row)
    progress.start(len(open_trials))
    with Worker() as worker:
        for trial in open_trials:
            row = run_trial(trial, worker, progress)
            progress.finish(trial.cell.id, row)
            if row.status == "failed" and trial.stored():
                progress.say(f"{trial.cell.id}: the row of an earlier run stays")
            else:
                store.write(settings.root, row)
            done.append(row)
    return done


def check(done: Sequence[Row], root: Path) -> None:
    """Raises SweepIncomplete when a row has no result."""
    bad = [row for row in done if row.status not in store.FINAL_STATUSES]
    if bad:
        raise SweepIncomplete(
            f"{len(bad)} of {len(done)} cells failed, the first is {bad[0].cell}",
            f"see {root / bad[0].log}; the same command tries again",
        )


def run_trial(trial: Trial, worker: Worker, progress: Progress) -> Row:
    """Build, check and time one cell. What goes wrong with it becomes its row."""
    blank, artifact, place = trial.blank(), None, trial.place
    if place is None:
        return rows.invalid(blank, trial.planned.reason)
    try:
        progress.stage(trial.cell.id, "building")
        artifact = obtain_artifact(trial, worker)
        progress.stage(trial.cell.id, f"measuring ({place.device.runner})")
        samples = measure(
            place.device,
            artifact,
            trial.cell.precision,
            place.threads,
            trial.settings.repeats,
            trial.settings.job_timeout_s,
        )
    except StorageError:
        raise  # a full disk will not take the row either
    except DlasError as error:
        append_log(trial.log, "".join(traceback.format_exception(error)))
        return rows.failed(blank, str(error), artifact)
    append_log(trial.log, f"{samples.result.log}{samples.status} {samples.reason}\n")
    return rows.measured(blank, artifact, samples)


def obtain_artifact(trial: Trial, worker: Worker) -> Artifact:
    """The compiled cell: from the cache, or built in the worker. Raises what building raises."""
    limit_s, target = trial.settings.build_timeout_s, trial.planned.target
    if not trial.artifact_folder.is_dir():
        with cache.atomic_folder(trial.artifact_folder) as folder:
            worker.call(trial.log, limit_s, compile_cell, trial.cell, target, trial.artifact_key, folder)
    return artifacts.read(trial.artifact_folder)


def compile_cell(cell: Cell, target: Target, key: str, folder: Path) -> None:
    """Load a network and compile it into `folder`. Runs in the worker: it imports torch and TVM."""
    from dlas.models.loading import load
    from dlas.systems.build import build

    model = load(cell.model)
    build(model.module, model.input, model.output, model.trained, cell, target, key, folder)


def build_sweep(planned: Sequence[Planned], settings: Settings, progress: Progress) -> None:
    """Compile every cell that can be, and measure none. Raises SweepIncomplete when one does not compile."""
    failures = []
    with Worker() as worker:
        progress.start(len(planned))
        for each in planned:
            if each.unbuildable:
                progress.done(each.cell.id, f"invalid: {each.unbuildable}")
                continue
            progress.stage(each.cell.id, "building")
            try:
                artifact = obtain_artifact(Trial(each, 0, settings, None), worker)
                progress.done(each.cell.id, str(artifact.path))
            except StorageError:
                raise  # a full disk will not take the next one either
            except DlasError as error:
                failures.append(each.cell.id)
                progress.done(each.cell.id, f"failed: {error}")
    if failures:
        raise SweepIncomplete(f"{len(failures)} of {len(planned)} cells failed", "see their lines above")


def build_image(target: Target, root: Path, base: str, say: Callable[[str], None]) -> str:
    """Build the container image of a target and return a line that says which."""
    from dlas.hardware import image

    return f"{target.image_tag}: {image.build_image(target, root, base, say)}"


def report(sweep: str, root: Path) -> str:
    """The rows of a sweep as text, as wide as the terminal."""
    from dlas.results import report as reports

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return reports.report(root, sweep, width)


def run_bench(
    planned: Sequence[Planned],
    algorithms: Sequence[str],
    settings: Settings,
    against: str,
    threads: Sequence[int],
    rounds: int,
    progress: Progress,
) -> Any:
    """Compare the cells of some algorithms, all of one network, with a peer; the result prints itself.

    Raises UsageError, PeerError, and what building and the device raise.
    """
    from dlas.bench import benchmark

    benchmark.check(against, threads, rounds, settings.repeats)
    cells = {each.cell.algorithm: each for each in planned}
    unknown = [name for name in algorithms if name not in cells]
    if unknown or len(cells) < len(planned):
        what = f"unknown algorithm {unknown[0]!r}" if unknown else "more than one network"
        raise UsageError(what, f"name one network, and algorithms of {', '.join(cells)}")
    target, spec = planned[0].target, planned[0].cell.model
    if max(threads) > target.board.threads:
        raise UsageError(f"{max(threads)} threads on {target.board.threads} cores", "give fewer")
    built = {}
    with Worker() as worker:
        for name in algorithms:
            progress.say(f"building {cells[name].cell.id}")
            built[name] = obtain_artifact(Trial(cells[name], 0, settings, None), worker)
    device, why = devices.device(target, settings.runner, settings.root)
    progress.say(f"{target.name}: {why}")
    return benchmark.run(
        built, spec, device, against, threads, rounds, settings.repeats, settings.root, progress.say
    )


def append_log(path: Path, text: str) -> None:
    if text:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
