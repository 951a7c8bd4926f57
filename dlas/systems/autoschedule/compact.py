"""Best choices in one small file: what ships with dlas, and what goes from machine to machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache as once
from pathlib import Path
from typing import Any

from dlas import cache
from dlas.errors import StorageError, UsageError
from dlas.systems.autoschedule.record import Like, Record, check_time, tvm_version
from dlas.systems.autoschedule.workload import Choice, parse

FOLDER = Path(__file__).parents[1] / "records"  # what ships
_LIKE = ("arch", "vector_lanes", "vector_registers")
_KEYS = ("compiler", "device", "tvm", "workloads")


@dataclass(frozen=True)
class Best:
    """The choice that a search ended with. hand_ns: the hand schedule's time there, None where it failed."""

    choice: Choice
    median_ns: int
    hand_ns: int | None
    trials: int
    seconds: float
    threads: int = 1


@dataclass(frozen=True)
class Compact:
    """The best choices of searches on one kind of device. device: its CPU's name."""

    like: Like
    device: str
    tvm: str
    workloads: Mapping[str, Best]

    def record(self, workload: str, at: datetime) -> Record:
        """As a record of another machine. Raises KeyError for a workload that it has not."""
        best = self.workloads[workload]
        return Record(
            workload=workload,
            compiler="",
            like=self.like,
            threads=best.threads,
            choice=best.choice,
            median_ns=best.median_ns,
            reason="",
            detail="",
            build_seconds=0.0,
            run_seconds=0.0,
            device="",
            device_model=self.device,
            tvm=self.tvm,
            dlas="",
            at=at,
            trial=best.trials,
            hand_ns=best.hand_ns,
            dropped=best.trials - 1,
            dropped_seconds=best.seconds,
        )


def write(path: Path, compact: Compact) -> None:
    """Raises StorageError."""
    head = {
        "compiler": dict(zip(_LIKE, compact.like, strict=True)),
        "device": compact.device,
        "tvm": compact.tvm,
    }
    lines = [f"{json.dumps(name)}: {json.dumps(head[name])}," for name in _KEYS[:-1]]
    workloads = [
        f"{json.dumps(name)}: {json.dumps(_to_json(compact.workloads[name]))}"
        for name in sorted(compact.workloads)
    ]
    # A line for each workload, so that a change of one is a change of one line.
    text = "\n".join(["{", *lines, '"workloads": {', ",\n".join(workloads), "}", "}"]) + "\n"
    cache.atomic_write(path, text.encode())


def read(path: Path) -> Compact:
    """Raises StorageError for a file that is damaged, and UsageError where there is none."""
    try:
        return _compact(json.loads(path.read_bytes()))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{path} is no file", "give one that `invoke tuning export` wrote") from error
    except OSError as error:
        raise cache.storage_error(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise StorageError(f"{path} holds no records: {words}", "export it again") from error


@once
def shipped(folder: Path = FOLDER) -> tuple[Compact, ...]:
    """The files that ship, in the order of their names. Raises StorageError."""
    return tuple(read(path) for path in sorted(folder.glob("*.json")))


def find_shipped(workload: str, like: Like, folder: Path = FOLDER) -> Record | None:
    """What ships for a workload on CPUs like this one, by the most trials; None where nothing does."""
    fit = [each for each in shipped(folder) if each.like == like and each.tvm == tvm_version()]
    found = [each for each in fit if workload in each.workloads]
    most = max(found, key=lambda each: each.workloads[workload].trials, default=None)
    return most.record(workload, datetime.fromtimestamp(0, UTC)) if most else None


def _to_json(best: Best) -> dict[str, Any]:
    return {
        "choice": best.choice.to_json(),
        "median_ns": best.median_ns,
        "hand_ns": best.hand_ns,
        "trials": best.trials,
        "seconds": round(best.seconds, 1),
        **({"threads": best.threads} if best.threads > 1 else {}),
    }


def _compact(raw: Any) -> Compact:
    if set(raw) != set(_KEYS):
        raise ValueError(f"its keys are {', '.join(raw)}, and not {', '.join(_KEYS)}")
    like = raw["compiler"]
    return Compact(
        like=(str(like["arch"]), int(like["vector_lanes"]), int(like["vector_registers"])),
        device=str(raw["device"]),
        tvm=str(raw["tvm"]),
        workloads={parse(name).id: _best(one) for name, one in raw["workloads"].items()},
    )


def _best(raw: Any) -> Best:
    trials, threads = raw["trials"], raw.get("threads", 1)
    for what, number in {"trials": trials, "threads": threads}.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{number!r} is no number of {what}")
    return Best(
        choice=Choice.from_json(raw["choice"]),
        median_ns=check_time(raw["median_ns"]),
        hand_ns=None if raw["hand_ns"] is None else check_time(raw["hand_ns"]),
        trials=trials,
        seconds=float(raw.get("seconds", 0.0)),
        threads=threads,
    )
