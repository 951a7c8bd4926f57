"""What a tuned cell runs: the records that there are for the convolutions of its network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

from dlas import cache
from dlas.sweeptables import Budget
from dlas.systems.autoschedule.record import Record, digest_choices, digest_of
from dlas.systems.autoschedule.records import FOLDER, Database, path_of
from dlas.systems.autoschedule.workload import Choice, parse
from dlas.values import Target

LAYERS = f"{FOLDER}/layers"
THREADS = 1  # with which sweeps tune; `invoke tune --threads` does for more


@dataclass(frozen=True)
class Tuned:
    """The workloads of a network, and what is known of them.

    workloads: one for each convolution, in order, alike ones each time. records: the best of each that has
    any. lacking: those whose search is not done, and how many trials it may still make. trials and seconds:
    of the searches that the records come from.
    """

    workloads: tuple[str, ...]
    records: Mapping[str, Record]
    lacking: Mapping[str, int]
    trials: int
    seconds: float

    @property
    def choices(self) -> dict[str, Choice]:
        """What each workload is built with; the hand schedule where it is not in here."""
        return {name: record.choice for name, record in self.records.items()}

    @property
    def sha256(self) -> str:
        """Of the choices, empty without one."""
        return digest_choices(self.choices)

    @property
    def missing(self) -> tuple[str, ...]:
        """The workloads without a record, each once."""
        return tuple(name for name in dict.fromkeys(self.workloads) if name not in self.records)


def find(workloads: Sequence[str], root: Path, target: Target, budget: Budget, threads: int) -> Tuned:
    """What is recorded of these workloads. threads: those that the network will run with.

    Raises StorageError for damaged records.
    """
    database, compiler = open_database(root, target), target.compiler
    names = dict.fromkeys(workloads)
    best = {name: database.best(name, compiler, threads) for name in names}
    records = {name: record for name, record in best.items() if record is not None}
    efforts = [database.effort(record) for record in records.values()]
    standings = {name: database.standing(name, digest_of(compiler), THREADS) for name in names}
    return Tuned(
        workloads=tuple(workloads),
        records=records,
        lacking={
            name: budget.trials - found.trials
            for name, found in standings.items()
            if not found.is_done(budget.trials, budget.early_stop)
        },
        trials=sum(effort.trials for effort in efforts),
        seconds=sum(effort.seconds for effort in efforts),
    )


def open_database(root: Path, target: Target, say: Callable[[str], None] | None = None) -> Database:
    """The records of a target, read once and then only what is new. Raises StorageError."""
    database = _database(path_of(root, target.name))
    database.say = say or database.say
    database.refresh()
    return database


@once
def _database(path: Path) -> Database:
    return Database(path)


def write_layers(path: Path, workloads: Sequence[str]) -> None:
    """Raises StorageError."""
    cache.atomic_write(path, json.dumps(list(workloads), indent=0).encode())


def read_layers(path: Path) -> tuple[str, ...] | None:
    """The workloads of a network, None where they are not listed yet, or the file is damaged."""
    try:
        return tuple(parse(name).id for name in json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
