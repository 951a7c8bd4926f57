"""What a sweep would do, without doing it: what is there already, and about how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from dlas.compression import finetuning
from dlas.models import recipe as recipes
from dlas.models.recipe import Recipe
from dlas.progress import Progress
from dlas.results import store
from dlas.results.entries import Entry
from dlas.sweep import Planned
from dlas.trial import Settings, Trial, trials
from dlas.values import WARMUPS

# Guesses for cells that no row tells about, of a CIFAR network on two cores.
BUILD_SECONDS = 6.0
RUN_SECONDS = {"minimal": 0.3}
TRIAL_SECONDS = 0.7  # of a search, where none of its records tells
WORKLOADS = 15  # of a network that is not listed yet
EPOCH_SECONDS = {"cifar10": 1200.0, "digits": 4.0}
BUILDING = ("quantize", "import", "lower", "compile", "link")
SCHEDULED_RUN_SECONDS = 0.01
STATE_COLUMNS = len("train, prune, tune, build, measure")


def describe(planned: Sequence[Planned], settings: Settings, progress: Progress) -> str:
    """One line for each row to make, then the totals."""
    known = store.read(settings.root, settings.sweep).rows
    lines, seconds, counts = [], 0.0, Counter[str]()
    made: set[str] = set()  # a network is trained once, and an artifact built once for all its replicates
    for trial in trials(planned, settings, progress.say):
        state = _state(trial, made)
        cost = estimate_seconds(trial, state, known) + (
            _tuning_seconds(trial, made) if "tune" in state else 0
        )
        seconds += cost
        counts[state] += 1
        about = f"  about {duration(cost)}" if cost else ""
        replicate = f" (replicate {trial.replicate})" if trial.replicate else ""
        lines.append(f"{state:{STATE_COLUMNS}}  {trial.cell.id}{replicate}{about}")
    totals = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return "\n".join([*lines, f"{totals}; about {duration(seconds)} in all"])


def estimate_seconds(trial: Trial, state: str, known: Iterable[Entry]) -> float:
    """From rows of the same cell, else of the same network and tuning, else from a guess."""
    if state in ("cached", "invalid", "no device"):
        return 0.0
    timed = [row for row in known if row.status == "measured"]
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
    if trial.network.is_unfinished or not trial.accuracy_reason:
        runs += trial.settings.images
    epochs = recipes.load(trial.cell.recipe).epochs if "train" in state else 0
    if "prune" in state:
        epochs += sum(recipe.epochs for _, recipe in _missing_levels(trial))
    train = EPOCH_SECONDS[trial.cell.dataset] * epochs if epochs else 0.0
    return run * runs + train + (build if "build" in state else 0.0)


def _tuning_seconds(trial: Trial, made: set[str]) -> float:
    """At most: a search may end early. made: as in `_state`, here the workloads that earlier trials tune,
    behind their target's name."""
    budget, found = trial.planned.budget, trial.tuned
    if found is None:
        return TRIAL_SECONDS * WORKLOADS * budget.trials
    target = trial.cell.target
    todo = [name for name in found.lacking if f"{target}/{name}" not in made]
    made.update(f"{target}/{name}" for name in todo)
    each = found.seconds / found.trials if found.trials and found.seconds else TRIAL_SECONDS
    return each * sum(found.lacking[name] for name in todo)


def _missing_levels(trial: Trial) -> list[tuple[float, Recipe]]:
    """The levels that a network is still to be pruned and trained to, and how."""
    network = trial.network
    if network.finetuning is None:
        return []
    last, there = network.asked.level_fraction, {point.level_fraction for point in network.levels}
    steps = finetuning.steps(network.finetuning, network.asked.technique)
    return [(level, how) for level, how in steps if level not in there and (last is None or level <= last)]


def _build_seconds(row: Entry) -> float:
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
    if trial.absence:
        return "no device"
    if trial.place is None:
        return "invalid"
    if trial.cached() is not None:
        return "cached"
    cell, steps = trial.cell, []
    network = trial.network
    if network.must_train:
        steps.append(("train", f"{cell.dataset}/{cell.model.name}/{cell.recipe}"))
    if network.must_finetune:
        # A level counts again for a higher one: how long that takes is an upper bound.
        pruned = f"{cell.dataset}/{cell.model.name}/{cell.finetuning}/{network.asked.technique}"
        steps.append(("prune", f"{pruned}/{network.asked.level_fraction}"))
    if trial.must_tune:
        steps.append(("tune", f"tune {cell.target} {trial.layers_path if network.is_resolved else cell.id}"))
    if network.is_unfinished or trial.must_tune:
        steps.append(("build", cell.id))  # its key is not known yet
    elif not trial.artifact_folder.is_dir():
        steps.append(("build", trial.artifact_key))
    todo = [step for step, name in steps if name not in made]
    made.update(name for _, name in steps)
    return ", ".join([*todo, "measure"])
