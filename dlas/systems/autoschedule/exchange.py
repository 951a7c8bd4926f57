"""Records that go from machine to machine: the best of a database written to a file, and taken in again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from dlas.errors import UsageError
from dlas.systems.autoschedule import compact
from dlas.systems.autoschedule.compact import Best, Compact
from dlas.systems.autoschedule.record import Record, Standing, like_of, tvm_version
from dlas.systems.autoschedule.records import Database
from dlas.values import Compiler


def export(database: Database, path: Path, compiler: Compiler) -> int:
    """Write the best choice of each workload for CPUs like this one; returns how many.

    Raises UsageError where there is none, StorageError.
    """
    chosen = {}
    for workload in database.workloads:
        record = database.best(workload, compiler)
        if record is not None:
            chosen[workload] = record
    if not chosen:
        raise UsageError(f"{database.path} has no records for such a CPU", "`invoke tune` makes them")
    models = [record.device_model for record in chosen.values()]
    found = {name: _best(record, database.effort(record)) for name, record in chosen.items()}
    device = max(sorted(set(models)), key=models.count)
    compact.write(path, Compact(like_of(compiler), device, tvm_version(), found))
    return len(found)


def take_in(database: Database, path: Path, compiler: Compiler) -> int:
    """Add the choices of an exported file as those of another machine; returns how many were new.

    Raises UsageError where they are for another kind of CPU or another TVM, StorageError.
    """
    found = compact.read(path)
    if found.tvm != tvm_version():
        cause = f"{path} was tuned with TVM {found.tvm}, this is {tvm_version()}"
        raise UsageError(cause, "tune anew: its choices need not fit")
    if found.like != like_of(compiler):
        theirs, ours = (" ".join(map(str, like)) for like in (found.like, like_of(compiler)))
        raise UsageError(
            f"{path} is for CPUs of {theirs} (arch, lanes and registers), the target has {ours}",
            "choose another --target",
        )
    now = datetime.now(UTC)
    records = [found.record(name, now) for name in found.workloads]
    new = [record for record in records if not _is_there(database, record)]
    if new:
        database.append(new)
    return len(new)


def _is_there(database: Database, record: Record) -> bool:
    alike = (record.choice, record.median_ns, record.device_model)
    there = database.of(*record.group)
    return any((one.choice, one.median_ns, one.device_model) == alike for one in there)


def _best(record: Record, effort: Standing) -> Best:
    hand_ns = effort.hand_ns if record.compiler else record.hand_ns
    taken = record.median_ns or 0
    return Best(record.choice, taken, hand_ns, effort.trials, effort.seconds, record.threads)
