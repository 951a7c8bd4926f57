"""The search of a list of workloads: propose, build, measure, record, until each has had its trials."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from dlas import cache
from dlas.candidates import BUILD_S, CORE, Builders, Core, Network, Station, Verdict, is_here
from dlas.errors import BuildError, DeviceError, DeviceLostError, DlasError, StorageError
from dlas.measurement.patience import persist
from dlas.plan import duration
from dlas.progress import Progress
from dlas.sweeptables import Budget
from dlas.systems.autoschedule import record as records
from dlas.systems.autoschedule.record import Record, Standing
from dlas.systems.autoschedule.records import FOLDER, Database
from dlas.systems.autoschedule.workload import Choice, Workload, parse
from dlas.trial import Place
from dlas.values import Target
from dlas.worker import Limit

BATCH = 32  # variants that are proposed, built and measured at a time
LOSSES = 3  # a variant with which a device that is there went away so often has crashed it


T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A variant that is being built: the seconds that took are the future's result."""

    choice: Choice
    module: Path
    built: Future[float]


@dataclass
class Search:
    """Searches the workloads of one target on one or several devices of a kind. `run` does it.

    root: of the artifacts. title: what the progress says that this is for. retries: as in `persist`.
    builders: how many processes compile.
    """

    target: Target
    places: Sequence[Place]
    root: Path
    database: Database
    budget: Budget
    progress: Progress
    title: str
    threads: int = 1
    retries: int = 0
    build_timeout_s: float = 1800.0
    builders: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    core: Core = CORE
    _stations: list[Station] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _later: int = 0  # trials of the workloads after this one, at most
    _made: int = 0
    _started: float = 0.0

    def run(self, workloads: Sequence[str]) -> None:
        """Give each workload the trials that it lacks; those that are recorded count.

        Raises BuildError, DeviceError, DeviceBusyError or EngineError where the device or the hand schedule
        fails, and StorageError. All that was measured before is recorded.
        """
        pending = [name for name in workloads if not self._is_done(name)]
        self._started, self._made = time.monotonic(), 0
        with Builders(self.builders, self._log) as self._pool, ExitStack() as stack:
            self._stations = [stack.enter_context(Station(place, self.threads)) for place in self.places]
            for number, name in enumerate(pending, start=1):
                self._later = sum(map(self._lack, pending[number:]))
                self.progress.stage(self.title, f"tuning {number} of {len(pending)}")
                self._tune(parse(name))
                self.progress.say(f"{name}: {describe(self._standing(name))}")

    def _lack(self, name: str) -> int:
        """How many trials a workload lacks, at most."""
        return max(0, self.budget.trials - self._standing(name).trials)

    @property
    def _log(self) -> Path:
        return self.root / "logs" / FOLDER / f"{self.target.name}.log"

    def _standing(self, name: str) -> Standing:
        return self.database.standing(name, records.digest_of(self.target.compiler), self.threads)

    def _is_done(self, name: str) -> bool:
        # Whether a space is exhausted, the search itself says: a newer one may know more.
        standing = replace(self._standing(name), is_exhausted=False)
        return standing.is_done(self.budget.trials, self.budget.early_stop)

    def _tune(self, workload: Workload) -> None:
        compiler = self.target.compiler
        limit = Limit(self.build_timeout_s, "preparing a workload", "--build-timeout")
        with cache.temporary_folder(self.root / FOLDER) as folder:
            self._pool.call(limit, self.core.prepare, workload, compiler, folder)
            network = Network.read(folder)
            while not self._is_done(workload.id):
                choices = self._propose(workload)
                if not choices:
                    self._mark_exhausted(workload)
                    return
                self._try_batch(workload, network, choices, folder)
                self.database.append([])  # on the disk, batch by batch

    def _propose(self, workload: Workload) -> list[Choice]:
        """The next batch: no more than can be before the search may have to end."""
        compiler, standing = self.target.compiler, self._standing(workload.id)
        count = min(BATCH, self.budget.trials - standing.trials)
        if self.budget.early_stop:
            count = min(count, self.budget.early_stop - standing.since_gain)
        tried = self._tried(workload)
        limit = Limit(self.build_timeout_s, "proposing variants", "--build-timeout")
        choices = self._pool.call(limit, self.core.propose, workload, compiler, tried, count)
        elsewhere = self.database.elsewhere(workload.id, compiler, self.threads)
        known = [*choices, *(choice for choice, _ in tried)]
        if elsewhere is not None and elsewhere.choice not in known:
            choices.insert(0 if tried else 1, elsewhere.choice)  # the best of a like CPU, behind the hand's
        return choices[:count]

    def _try_batch(
        self, workload: Workload, network: Network, choices: Sequence[Choice], folder: Path
    ) -> None:
        limit = Limit(BUILD_S, "building", "nothing: it is left out")
        todo = deque(
            Item(choice, module, self._pool.submit(limit, self.core.build, *asked, choice, module))
            for number, choice in enumerate(choices)
            for module in [folder / f"{number}.so"]
            for asked in [(workload, self.target.compiler)]
        )
        is_first = not self._standing(workload.id).trials
        try:
            if any(is_here(station.place.device) for station in self._stations):
                wait([item.built for item in todo])  # nothing else runs while a variant is timed
            if is_first:
                self._try_hand(workload, network, todo.popleft())
            self._measure(workload, network, todo)
        finally:
            for item in todo:
                item.built.cancel()

    def _try_hand(self, workload: Workload, network: Network, item: Item) -> None:
        """The first variant is the hand schedule: where that fails, it is for no reason of the search's."""
        record = self._ask_first(workload, network, item)
        if record.median_ns is None:
            error = BuildError if record.reason == "failed_to_build" else DeviceError
            words = record.reason.replace("_", " ")
            raise error(f"{workload.id}: the hand schedule: {words}: {record.detail}", f"see {self._log}")
        self._keep(workload, record)

    def _ask_first(self, workload: Workload, network: Network, item: Item) -> Record:
        """What came of a variant on the first device that is there."""
        while True:
            station = self._stations[0]
            try:
                return self._at(station, self._ask, workload, network, item)
            except DeviceLostError as lost:
                if len(self._stations) == 1:
                    raise
                self._go_on_without({station: lost})

    def _measure(self, workload: Workload, network: Network, todo: deque[Item]) -> None:
        """Empty `todo` on all devices that are there. Raises DeviceLostError when none is."""
        while todo:
            if len(self._stations) == 1:
                return self._at(self._stations[0], self._serve, workload, network, todo)
            serving = {
                station: station.submit(self._serve, station, workload, network, todo)
                for station in self._stations
            }
            try:
                wait(serving.values())
            except BaseException:
                todo.clear()  # each ends after what it measures now
                raise
            failed = {station: error for station, each in serving.items() if (error := each.exception())}
            for error in failed.values():
                if not isinstance(error, DeviceLostError) or len(failed) == len(self._stations):
                    raise error
            self._go_on_without(failed)

    def _go_on_without(self, lost: Mapping[Station, BaseException]) -> None:
        for error in lost.values():
            self.progress.say(f"{cast(DeviceLostError, error).cause}; the search goes on without it")
        self._stations = [station for station in self._stations if station not in lost]

    def _at(self, station: Station, function: Callable[..., T], *args: Any) -> T:
        """Call a function with a station, in the station's thread; the only one's is this thread."""
        if len(self.places) == 1:
            return function(station, *args)
        return station.submit(function, station, *args).result()

    def _serve(self, station: Station, workload: Workload, network: Network, todo: deque[Item]) -> None:
        while True:
            try:
                item = todo.popleft()
            except IndexError:
                return
            if item.choice not in dict(self._tried(workload)):  # else another search was there first
                try:
                    record = self._ask(station, workload, network, item)
                except DlasError:
                    todo.appendleft(item)
                    raise
                self._keep(workload, record)
            item.module.unlink(missing_ok=True)

    def _tried(self, workload: Workload) -> list[tuple[Choice, int | None]]:
        """The variants that were tried, in order, with their medians, by whatever search."""
        self.database.refresh()
        own = self.database.of(workload.id, records.digest_of(self.target.compiler), self.threads)
        return [(each.choice, each.median_ns) for each in own if each.counts]

    def _ask(self, station: Station, workload: Workload, network: Network, item: Item) -> Record:
        """What came of a variant, asked again where its device went away."""
        try:
            build_seconds = item.built.result()
        except StorageError:
            raise  # a full disk will not take the next one either
        except BuildError as error:
            verdict = Verdict(None, "failed_to_build", error.cause, 0.0)
            return self._record(station, workload, item.choice, verdict, 0.0)
        ask = partial(self._run, station, workload, network, item, build_seconds)
        if len(self._stations) == 1:
            return persist(ask, station.place.device.probe, self.retries, self.progress.say)
        while True:
            try:
                return ask()
            except DeviceLostError:
                if not _is_there(station):
                    raise  # nobody waits for it while there is another one

    def _run(
        self, station: Station, workload: Workload, network: Network, item: Item, build_seconds: float
    ) -> Record:
        best_ns = self._standing(workload.id).best_ns
        started = time.monotonic()
        try:
            verdict = station.try_out(item.module, network, best_ns)
        except DeviceLostError as error:
            verdict = Verdict(None, records.LOST, error.cause, time.monotonic() - started)
            lost = self._record(station, workload, item.choice, verdict, 0.0)
            self.database.append([lost], durable=False)
            if not self._has_crashed_it(station, lost):
                raise
            verdict = replace(verdict, reason="crashed", seconds=0.0)  # `lost` has them
        return self._record(station, workload, item.choice, verdict, build_seconds)

    def _has_crashed_it(self, station: Station, lost: Record) -> bool:
        """Whether it is the variant, and not the device, that fails again and again."""
        others = self.database.of(*lost.group)
        losses = sum(each.reason == records.LOST and each.choice == lost.choice for each in others)
        return losses >= LOSSES and _is_there(station)

    def _record(
        self, station: Station, workload: Workload, choice: Choice, verdict: Verdict, build_seconds: float
    ) -> Record:
        compiler, facts = self.target.compiler, station.place.facts
        return Record(
            workload=workload.id,
            compiler=records.digest_of(compiler),
            like=records.like_of(compiler),
            threads=self.threads,
            choice=choice,
            median_ns=verdict.median_ns,
            reason=verdict.reason,
            detail=" ".join(verdict.detail.split())[:200],
            build_seconds=build_seconds,
            run_seconds=verdict.seconds,
            device=facts.fingerprint,
            device_model=facts.cpu_model,
            tvm=records.tvm_version(),
            dlas=records.dlas_version(),
            at=datetime.now(UTC),
        )

    def _mark_exhausted(self, workload: Workload) -> None:
        if self._standing(workload.id).is_exhausted:
            return
        verdict = Verdict(None, records.EXHAUSTED, "the search knows no other variant", 0.0)
        self.database.append([self._record(self._stations[0], workload, Choice(()), verdict, 0.0)])

    def _keep(self, workload: Workload, record: Record) -> None:
        self.database.append([record], durable=False)
        with self._mutex:
            self._made += 1
            rate = self._made / max(time.monotonic() - self._started, 1e-3)
            left = duration((self._later + self._lack(workload.id)) / rate)
            words = describe(self._standing(workload.id), self.budget.trials)
            self.progress.note(f"{words}; {rate:.1f} trials/s, at most {left} left")


def _is_there(station: Station) -> bool:
    """Whether its device answers."""
    try:
        station.place.device.probe()
    except DlasError:
        return False
    return True


def describe(standing: Standing, trials: int = 0) -> str:
    """How far a search is, in words; of so many trials, if they are given."""
    of = f" of {trials}" if trials else ""
    words = f"{standing.trials}{of} trials"
    best, hand_ns = standing.best, standing.hand_ns
    if best is None or best.median_ns is None:
        return f"{words}, none of which ran"
    ratio = f", {hand_ns / best.median_ns:.2f}x the hand schedule's speed" if hand_ns else ""
    return f"{words}, best {best.median_ns / 1e6:.3f} ms{ratio}"
