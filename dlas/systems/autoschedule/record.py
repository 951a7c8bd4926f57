"""One trial of a search as it is kept: a value, and a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache as once
from importlib.metadata import version
from typing import Any

from dlas import cache
from dlas.systems.autoschedule.workload import Choice, parse
from dlas.values import Compiler

# Why a trial has no time.
FAILURES = ("failed_to_build", "crashed", "wrong_output", "timed_out")
LOST = "lost"  # the device went away: that says nothing of the variant, which is tried again
EXHAUSTED = "exhausted"  # no trial: the search knows no other variant
GAIN = 0.01  # by what share the best must get faster for a search to go on; less is noise
_SECONDS_DIGITS = 4

Like = tuple[str, int, int]
Group = tuple[str, str, int]


def tvm_version() -> str:
    return _version("apache-tvm")


def dlas_version() -> str:
    return _version("dlas")


_version = once(version)


def like_of(compiler: Compiler) -> Like:
    """What CPUs share that a choice fits both of: arch, lanes and registers of their vectors."""
    return compiler.arch, compiler.vector_lanes, compiler.vector_registers


def digest_of(compiler: Compiler) -> str:
    """Of all that code for a target depends on, TVM's version among it: only such times are comparable."""
    settings = asdict(compiler)
    del settings["int8_activations"]  # nothing to floats
    return cache.digest(json.dumps(settings, sort_keys=True), tvm_version())[:32]


@dataclass(frozen=True)
class Record:
    """One variant of a workload that was tried.

    compiler: as of `digest_of`, empty for one that was imported. like: as of `like_of`. median_ns: None where
    reason is one of FAILURES, LOST or EXHAUSTED, of which detail says more. device: its fingerprint. trial:
    its number among those of its search, from 1; 0 where it does not count as one. hand_ns: the hand
    schedule's time, of an imported one. dropped: how many trials before it were pruned from the file, which
    had taken dropped_seconds.
    """

    workload: str
    compiler: str
    like: Like
    threads: int
    choice: Choice
    median_ns: int | None
    reason: str
    detail: str
    build_seconds: float
    run_seconds: float
    device: str
    device_model: str
    tvm: str
    dlas: str
    at: datetime
    trial: int = 0
    hand_ns: int | None = None
    dropped: int = 0
    dropped_seconds: float = 0.0

    @property
    def group(self) -> Group:
        """Records of one group are of one search: of a workload, compiled and run alike."""
        return self.workload, self.compiler, self.threads

    @property
    def counts(self) -> bool:
        """Whether it is a trial."""
        return self.reason not in (LOST, EXHAUSTED)

    @property
    def trials(self) -> int:
        """The trials that it stands for: itself, and those that were dropped before it."""
        return self.dropped + self.counts

    @property
    def seconds(self) -> float:
        return self.build_seconds + self.run_seconds + self.dropped_seconds


@dataclass(frozen=True)
class Standing:
    """How far the search of a group is.

    since_gain: the trials in a row, up to the last, that did not make the best faster by GAIN than gained_ns.
    hand: the hand schedule's record, which is the first.
    """

    trials: int = 0
    since_gain: int = 0
    gained_ns: int | None = None
    seconds: float = 0.0
    best: Record | None = None
    hand: Record | None = None
    is_exhausted: bool = False

    @property
    def best_ns(self) -> int | None:
        return self.best.median_ns if self.best else None

    @property
    def hand_ns(self) -> int | None:
        return self.hand.median_ns if self.hand else None

    def after(self, record: Record) -> Standing:
        """With one more record of the group."""
        taken = record.median_ns
        is_gain = taken is not None and (self.gained_ns is None or taken <= self.gained_ns * (1 - GAIN))
        is_best = taken is not None and (self.best_ns is None or taken < self.best_ns)
        return Standing(
            trials=self.trials + record.trials,
            since_gain=0 if is_gain else self.since_gain + record.trials,
            gained_ns=taken if is_gain else self.gained_ns,
            seconds=self.seconds + record.seconds,
            best=record if is_best else self.best,
            hand=self.hand or (record if record.trial == 1 else None),
            is_exhausted=record.reason == EXHAUSTED or (self.is_exhausted and not record.counts),
        )

    def is_done(self, trials: int, early_stop: int) -> bool:
        """Whether it has had its trials, has no variant left, or so many in a row gained nothing (0: any)."""
        stalled = bool(early_stop) and self.since_gain >= early_stop
        return self.trials >= trials or stalled or self.is_exhausted


def standing(records: Iterable[Record]) -> Standing:
    """Of the records of one group, in their order."""
    found = Standing()
    for record in records:
        found = found.after(record)
    return found


def marks(records: Sequence[Record]) -> list[Record]:
    """Those that `standing` rests on: the first, the last that gained, the best, the last, the end's mark."""
    found, gained = Standing(), list[Record]()
    for record in records:
        after = found.after(record)
        gained = [record] if after.gained_ns != found.gained_ns else gained
        found = after
    counting = [record for record in records if record.counts]
    kept = [*counting[:1], *gained, *([found.best] if found.best else []), *counting[-1:]]
    if found.is_exhausted:
        kept += [record for record in records if record.reason == EXHAUSTED][-1:]
    chosen = set(map(id, kept))
    return [record for record in records if id(record) in chosen]


def digest_choices(choices: Mapping[str, Choice]) -> str:
    """Of which choice each workload gets, empty for none."""
    if not choices:
        return ""
    return cache.digest(*(f"{name} {json.dumps(choices[name].to_json())}" for name in sorted(choices)))


def to_line(record: Record) -> str:
    """One line of JSON, with its end."""
    fields = asdict(record) | {"choice": record.choice.to_json(), "at": record.at.isoformat()}
    for name in ("build_seconds", "run_seconds", "dropped_seconds"):
        fields[name] = round(fields[name], _SECONDS_DIGITS)
    for name in ("detail", "hand_ns", "dropped", "dropped_seconds"):
        if not fields[name]:
            del fields[name]
    return json.dumps(fields, separators=(",", ":")) + "\n"


def from_line(line: bytes) -> Record:
    """Raises ValueError for what is no record."""
    try:
        raw = json.loads(line)
        return _record(raw)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is no record: {type(error).__name__}: {error}") from error


def check_time(value: Any) -> int:
    """A time in nanoseconds. Raises ValueError."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no time in nanoseconds")
    return value


def _record(raw: dict[str, Any]) -> Record:
    median_ns, reason, hand_ns = raw["median_ns"], raw["reason"], raw.get("hand_ns")
    if (median_ns is None) != (reason in (*FAILURES, LOST, EXHAUSTED)) or (median_ns is not None and reason):
        raise ValueError(f"a median of {median_ns!r} does not go with the reason {reason!r}")
    arch, lanes, registers = raw["like"]
    record = Record(
        workload=parse(_text(raw, "workload")).id,
        compiler=_text(raw, "compiler"),
        like=(str(arch), int(lanes), int(registers)),
        threads=_whole(raw, "threads"),
        choice=Choice.from_json(raw["choice"]),
        median_ns=None if median_ns is None else check_time(median_ns),
        reason=_text(raw, "reason"),
        detail=str(raw.get("detail", "")),
        build_seconds=float(raw["build_seconds"]),
        run_seconds=float(raw["run_seconds"]),
        device=_text(raw, "device"),
        device_model=_text(raw, "device_model"),
        tvm=_text(raw, "tvm"),
        dlas=_text(raw, "dlas"),
        at=datetime.fromisoformat(_text(raw, "at")),
        trial=_whole(raw, "trial"),
        hand_ns=None if hand_ns is None else check_time(hand_ns),
        dropped=int(raw.get("dropped", 0)),
        dropped_seconds=float(raw.get("dropped_seconds", 0.0)),
    )
    if record.at.tzinfo is None:
        raise ValueError("its time has no zone")
    return record


def _text(raw: dict[str, Any], name: str) -> str:
    if not isinstance(raw[name], str):
        raise ValueError(f"{name} is {raw[name]!r}, and no text")
    return str(raw[name])


def _whole(raw: dict[str, Any], name: str) -> int:
    value = raw[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}, and no whole number from 0 on")
    return value
