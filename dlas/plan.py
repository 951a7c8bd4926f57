"""What a sweep would do, without doing it: what is there already, and about how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from dlas.models import recipe as recipes
from dlas.progress import Progress
from dlas.results import store
from dlas.sweep import Planned
from dlas.trial import Settings, Trial, trials
from dlas.values import WARMUPS, Row

# Guesses for cells that no row tells about, of a CIFAR network on two cores.
BUILD_SECONDS = 6.0
RUN_SECONDS = {"minimal": 0.3}
EPOCH_SECONDS = {"cifar10": 1200.0, "digits": 4.0}
BUILDING = ("import", "lower", "compile", "link")
SCHEDULED_RUN_SECONDS = 0.01


def describe(planned: Sequence[Planned], settings: Settings, progress: Progress) -> str:
    """One line for each row to make, then the totals."""
    known = store.read(settings.root, settings.sweep).rows
    lines, seconds, counts = [], 0.0, Counter[str]()
    made: set[str] = set()  # a network is trained once, and an artifact built once for all its replicates
    for trial in trials(planned, settings, progress.say):
        state = _state(trial, made)
        cost = estimate_seconds(trial, state, known)
        seconds += cost
        counts[state] += 1
        about = f"  about {duration(cost)}" if cost else ""
        replicate = f" (replicate {trial.replicate})" if trial.replicate else ""
        lines.append(f"{state:22}{trial.cell.id}{replicate}{about}")
    totals = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return "\n".join([*lines, f"{totals}; about {duration(seconds)} in all"])


def estimate_seconds(trial: Trial, state: str, known: Iterable[Row]) -> float:
    """From rows of the same cell, else of the same network and tuning, else from a guess."""
    if state in ("cached", "invalid"):
        return 0.0
    timed = [row for row in known if row.samples_ns]
    alike = [row for row in timed if row.cell == trial.cell.id] or [
        row for row in timed if (row.model, row.tuning) == (trial.cell.model.name, trial.cell.tuning)
    ]
    build = median(map(_build_seconds, alike)) if alike else BUILD_SECONDS
    run = (
        median(median(row.samples_ns) for row in alike) / 1e9
        if alike
        else RUN_SECONDS.get(trial.cell.tuning, SCHEDULED_RUN_SECONDS)
    )
    runs = trial.settings.repeats + WARMUPS + 2
    if trial.must_train or not trial.accuracy_reason:
        runs += trial.settings.images
    train = 0.0
    if "train" in state:
        train = EPOCH_SECONDS[trial.cell.dataset] * recipes.load(trial.cell.recipe).epochs
    return run * runs + train + (build if "build" in state else 0.0)


def _build_seconds(row: Row) -> float:
    return sum(row.stage_seconds.get(stage, 0.0) for stage in BUILDING)


def duration(seconds: float) -> str:
    """In words that suit its size.

    >>> duration(40), duration(400), duration(40000)
    ('40 s', '7 min', '11.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _state(trial: Trial, made: set[str]) -> str:
    """What is to be done; made: names of what earlier trials of the plan train and build."""
    if trial.place is None:
        return "invalid"
    if trial.cached() is not None:
        return "cached"
    cell, steps = trial.cell, []
    if trial.must_train:
        steps.append(("train", f"{cell.dataset}/{cell.model.name}/{cell.recipe}"))
    if trial.must_train or not trial.artifact_folder.is_dir():
        steps.append(("build", trial.artifact_key))
    todo = [step for step, name in steps if name not in made]
    made.update(name for _, name in steps)
    return ", ".join([*todo, "measure"])
