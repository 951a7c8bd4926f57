"""One trial: a replicate of a cell, on a device, that is to become one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from dlas import cache, keys
from dlas.errors import UsageError
from dlas.hardware import device as devices
from dlas.results import row as rows
from dlas.results import store
from dlas.sweep import Planned
from dlas.values import REPEATS, Cell, Device, DeviceFacts, Row, Target


@dataclass(frozen=True)
class Settings:
    """How a sweep is run. threads 0 means as many as the target says."""

    sweep: str
    root: Path
    runner: str = "auto"
    threads: int = 0
    repeats: int = REPEATS
    replicates: int = 1
    force: bool = False
    job_timeout_s: float = 3600.0
    build_timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        for name in ("repeats", "replicates", "job_timeout_s", "build_timeout_s"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", "give 1 or more")


@dataclass(frozen=True)
class Place:
    """A device that is there, and who it is."""

    device: Device
    facts: DeviceFacts
    threads: int


@dataclass
class Places:
    """The device of each target, looked for once, when it is first needed."""

    settings: Settings
    say: Callable[[str], None]
    _found: dict[str, Place] = field(default_factory=dict)

    def of(self, target: Target) -> Place:
        if target.name not in self._found:
            device, why = devices.device(target, self.settings.runner, self.settings.root)
            threads = self.settings.threads or target.board.threads
            if threads > target.board.threads:
                raise UsageError(
                    f"{threads} threads are more than {target.name} has cores for",
                    f"give at most {target.board.threads}",
                )
            self._found[target.name] = Place(device, device.probe(), threads)
            said = f"; {target.detected}" if target.detected else ""
            self.say(f"{target.name}: {why}{said}; {threads} threads")
        return self._found[target.name]


@dataclass(frozen=True)
class Trial:
    """One replicate of a cell: what is to become one row."""

    planned: Planned
    replicate: int
    settings: Settings
    place: Place | None  # where it is measured; None when it is invalid

    @property
    def cell(self) -> Cell:
        return self.planned.cell

    @cached_property
    def artifact_key(self) -> str:
        return keys.artifact_key(self.cell, self.planned.target)

    @cached_property
    def inputs_key(self) -> str:
        if self.place is None:
            return cache.digest(self.cell.id, self.planned.reason)
        return keys.row_key(self.artifact_key, self.planned.target, self.place.device.image_id)

    @property
    def artifact_folder(self) -> Path:
        return self.settings.root / "modules" / self.artifact_key[:32]

    @property
    def log(self) -> Path:
        return self.settings.root / "logs" / self.settings.sweep / f"{self.cell.id}.log"

    def blank(self) -> Row:
        """What is known of the row before the cell has run."""
        return rows.blank(
            self.settings.sweep,
            self.cell,
            datetime.now(UTC),
            self.inputs_key,
            self.settings.repeats,
            self.replicate,
            runner=self.place.device.runner if self.place else "",
            facts=self.place.facts if self.place else None,
            image_id=self.place.device.image_id if self.place else "",
            threads=self.place.threads if self.place else 0,
            log=str(self.log.relative_to(self.settings.root)) if self.place else "",
        )

    def cached(self) -> Row | None:
        """The row that makes running this trial needless."""
        return None if self.settings.force else self.stored()

    def stored(self) -> Row | None:
        """The row of an earlier run that stands for this one."""
        return store.find(self.settings.root, self.settings.sweep, store.identify(self.blank()))


def trials(planned: Sequence[Planned], settings: Settings, places: Places) -> Iterator[Trial]:
    """The rows to make: all cells once, then all again, so that replicates lie far apart in time."""
    for replicate in range(settings.replicates):
        for each in planned:
            yield Trial(each, replicate, settings, None if each.reason else places.of(each.target))
