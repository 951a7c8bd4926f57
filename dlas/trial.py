"""One trial: a replicate of a cell, on a device, that is to become one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from dlas import cache, keys, tuned
from dlas.datasets import catalog
from dlas.errors import DataError, DeviceError, EngineError, TargetError, UsageError
from dlas.hardware import lock, reach
from dlas.measurement.patience import persist
from dlas.network import Network
from dlas.results import row as rows
from dlas.results import store
from dlas.results.identity import identify
from dlas.results.schema import SCHEMA_VERSION
from dlas.sweep import Planned
from dlas.tuned import Tuned
from dlas.values import (
    CALIBRATION_IMAGES,
    IMAGES,
    NO_IMAGE,
    REPEATS,
    Cell,
    Data,
    Device,
    DeviceFacts,
    Row,
    Target,
    Weights,
)


@dataclass(frozen=True)
class Settings:
    """How a sweep is run. threads 0 means as many as the target says.

    runner, device, emulate and wait_s: as in `reach.Access`, device being its host. retries: how often a cell
    is tried again when its device went away. is_plan: nothing is to change, here or there.
    images: on how many of the test split, at most, accuracy is taken; 0 for none. folders: where
    each dataset is to lie, for what is not in `root`.
    """

    sweep: str
    root: Path
    runner: str = "auto"
    device: str = ""
    emulate: bool = False
    wait_s: int = lock.WAIT_S
    retries: int = 0
    is_plan: bool = False
    threads: int = 0
    repeats: int = REPEATS
    replicates: int = 1
    force: bool = False
    job_timeout_s: float = 3600.0
    build_timeout_s: float = 1800.0
    train_timeout_s: float = 86400.0
    images: int = IMAGES
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def access(self) -> reach.Access:
        return reach.Access(self.runner, self.device, self.emulate, self.wait_s, may_ship=not self.is_plan)

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def __post_init__(self) -> None:
        for name in ("repeats", "replicates", "job_timeout_s", "build_timeout_s", "train_timeout_s"):
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
    _found: dict[str, Place | EngineError | DeviceError] = field(default_factory=dict)

    def of(self, target: Target) -> Place | EngineError | DeviceError:
        """The device, or why there is none. Raises UsageError, TargetError, BuildError, StorageError."""
        if target.name not in self._found:
            find = partial(self._find, target)
            try:
                self._found[target.name] = persist(find, find, self.settings.retries, self.say)
            except (EngineError, DeviceError) as error:
                self._found[target.name] = error
        return self._found[target.name]

    def _find(self, target: Target) -> Place:
        device, why = reach.device(target, self.settings.access, self.settings.root, self.say)
        facts = device.probe()
        processor = target.system.processor
        if processor not in facts.cpu_model and not device.emulated:
            raise TargetError(
                f"{target.name}: the device's processor is {facts.cpu_model}, the target's {processor}",
                "choose its own target, or another --device",
            )
        return Place(device, facts, self._threads(target, device, why))

    def _threads(self, target: Target, device: Device, why: str) -> int:
        most = device.target.board.threads
        threads = self.settings.threads or most
        if threads > most:
            raise UsageError(
                f"{threads} threads are more than {target.name} has cores for", f"give at most {most}"
            )
        said = f"; {target.detected}" if target.detected else ""
        self.say(f"{target.name}: {why}{said}; {threads} threads")
        return threads


@dataclass
class Shelf:
    """The datasets of this machine, each looked for once, when it is first needed."""

    settings: Settings
    say: Callable[[str], None]
    _found: dict[str, Data | DataError] = field(default_factory=dict)

    def find(self, name: str) -> Data | DataError:
        """The dataset, or what is wrong with it, which is said once."""
        if name not in self._found:
            folders = catalog.folders("", self.settings.root / "data") | self.settings.folders
            try:
                self._found[name] = catalog.locate(name, folders)
            except DataError as error:
                self.say(f"no accuracy on {name}: {error}")
                self._found[name] = error
        return self._found[name]


@dataclass(frozen=True)
class Trial:
    """One replicate of a cell: what is to become one row.

    place: where it is measured, None when it is invalid or, for a reason in absence, has no device now. data:
    what it is trained and judged on.
    Its keys rest on its weights and records: after training and tuning, go on with `renewed`.
    """

    planned: Planned
    replicate: int
    settings: Settings
    place: Place | None
    data: Data | DataError
    absence: EngineError | DeviceError | None = None

    @property
    def cell(self) -> Cell:
        return self.planned.cell

    @cached_property
    def network(self) -> Network:
        """What its cell runs, from the weights and levels that are there now."""
        sha256 = self.data.sha256 if isinstance(self.data, Data) else ""
        return Network(self.planned, sha256, self.settings.checkpoints)

    @property
    def invalid_reason(self) -> str:
        """Why the cell gets no row with times; empty where it gets one, or may get one after training."""
        return self.planned.reason or self.network.invalid_reason

    @property
    def weights(self) -> Weights:
        return self.network.weights

    def renewed(self) -> Trial:
        """The same trial, with what is there now."""
        return replace(self)

    @property
    def accuracy_reason(self) -> str:
        """Why this trial can have no accuracy; empty when it can."""
        if not self.weights.trained:
            return self.weights.reason
        if isinstance(self.data, DataError):
            return str(self.data)
        return "" if self.settings.images else "not asked for"

    @cached_property
    def calibration_key(self) -> str:
        """Of the images that it is quantized on, empty for noise."""
        if isinstance(self.data, DataError):
            return ""
        return keys.images_key(self.data, self.cell.model, "val", CALIBRATION_IMAGES)

    @cached_property
    def quantized_key(self) -> str:
        """Empty for a network of floats."""
        precision = self.cell.precision
        if not precision.startswith("int8"):
            return ""
        activations = self.planned.target.compiler.int8_activations if precision == "int8" else ""
        return keys.quantized_key(
            self.network.key, precision, activations, self.calibration_key, CALIBRATION_IMAGES
        )

    @property
    def is_tuned(self) -> bool:
        """Whether the cell asks for it."""
        return self.cell.tuning == "tuned"

    @cached_property
    def layers_path(self) -> Path:
        """The list of the workloads of a tuned network."""
        key = keys.artifact_key(self.cell, self.network.key, self.quantized_key, self.planned.target)
        return self.settings.root / tuned.LAYERS / f"{key[:32]}.json"

    @cached_property
    def tuned(self) -> Tuned | None:
        """The records that there are for its workloads; None where it is not tuned, or not listed yet."""
        if not self.is_tuned or not self.network.is_resolved:
            return None
        workloads = tuned.read_layers(self.layers_path)
        if workloads is None:
            return None
        target = self.planned.target
        threads = self.place.threads if self.place else self.settings.threads or target.board.threads
        return tuned.find(workloads, self.settings.root, target, self.planned.budget, threads)

    @property
    def must_tune(self) -> bool:
        """Whether its workloads lack trials that can be made: an emulated device tells no times."""
        if not self.is_tuned or self.place is None or self.place.device.emulated:
            return False
        return self.tuned is None or bool(self.tuned.lacking)

    @cached_property
    def artifact_key(self) -> str:
        choices = self.tuned.sha256 if self.tuned else ""
        return keys.artifact_key(
            self.cell, self.network.key, self.quantized_key, self.planned.target, choices
        )

    @cached_property
    def images_key(self) -> str:
        """Empty for a trial without accuracy."""
        if isinstance(self.data, DataError) or self.accuracy_reason:
            return ""
        return keys.images_key(self.data, self.cell.model, "test", self.settings.images)

    @cached_property
    def reference_key(self) -> str:
        """Empty for a trial without accuracy."""
        return self.images_key and keys.reference_key(self.images_key, self.network.key, self.quantized_key)

    @cached_property
    def inputs_key(self) -> str:
        if self.place is None or not self.network.is_resolved:
            reason = self.invalid_reason or str(self.network.compression)
            return cache.digest(self.cell.id, reason, str(SCHEMA_VERSION))
        image_id = self.place.device.image.id
        return keys.row_key(self.artifact_key, self.planned.target, image_id, self.reference_key)

    @property
    def artifact_folder(self) -> Path:
        return self.settings.root / "modules" / self.artifact_key[:32]

    @property
    def log(self) -> Path:
        return self.settings.root / "logs" / self.settings.sweep / f"{self.cell.id}.log"

    def blank(self, started_at: datetime | None = None) -> Row:
        """What is known of the row before the cell has run."""
        return rows.blank(
            self.settings.sweep,
            self.cell,
            started_at or datetime.now(UTC),
            self.inputs_key,
            self.settings.repeats,
            self.replicate,
            runner=self.place.device.runner if self.place else "",
            facts=self.place.facts if self.place else None,
            image=self.place.device.image if self.place else NO_IMAGE,
            emulated=self.place is not None and self.place.device.emulated,
            timer=self.planned.target.gpu.timer if self.place else "",
            threads=self.place.threads if self.place else 0,
            commit=keys.commit() if self.place else "",
            log=str(self.log.relative_to(self.settings.root)) if self.place else "",
            weights=self.weights if self.place else None,
            accuracy_reason=self.accuracy_reason if self.place else "",
            tuning_trials=self.tuned.trials if self.tuned else 0,
            tuning_seconds=self.tuned.seconds if self.tuned else 0.0,
            tuning_sha256=self.tuned.sha256 if self.tuned else "",
        )

    def cached(self) -> Row | None:
        """The row of an earlier run that makes running this trial needless."""
        is_open = self.network.is_unfinished or self.network.fault or self.must_tune
        if self.settings.force or (self.place is not None and is_open):
            return None
        return store.find(self.settings.root, self.settings.sweep, identify(self.blank()))


def trials(planned: Sequence[Planned], settings: Settings, say: Callable[[str], None]) -> Iterator[Trial]:
    """The rows to make: all cells once, then all again, so that replicates lie far apart in time."""
    places, shelf = Places(settings, say), Shelf(settings, say)
    for replicate in range(settings.replicates):
        for each in planned:
            trial = Trial(each, replicate, settings, None, shelf.find(each.cell.dataset))
            if not trial.invalid_reason:
                found = places.of(each.target)
                if isinstance(found, Place):
                    trial = replace(trial, place=found)
                else:
                    trial = replace(trial, absence=found)
            yield trial
