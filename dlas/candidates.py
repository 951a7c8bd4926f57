"""The variants that a search tries: compiled by warm processes, then run on a device, checked and timed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from dlas.errors import BuildError, DeviceBusyError, DeviceError
from dlas.hardware.device import DockerDevice
from dlas.measurement.measure import error_over_scale, find_fault
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.trial import Place
from dlas.values import Compiler, Device, Job, Session
from dlas.worker import Limit, Worker

if TYPE_CHECKING:
    import numpy as np

BUILD_S = 120.0  # that one variant may take
RUN_S = 60.0  # that one may run
SAMPLES_NS = 25e6  # what the samples of a variant that is as fast as the best take together
LEAST_REPEATS, MOST_REPEATS = 3, 10
FIRST_REPEATS = 10  # while nothing is known of its workload
# In a network, other layers run between two runs of one, and its filter comes from memory. With warm caches,
# a variant that read nine megabytes of filter twice was the best of a search, and 1.4x slower in its network.
FLUSH_BYTES = 64 << 20
WARMUPS = 1

T = TypeVar("T")
History = Sequence[tuple[Choice, int | None]]


# What follows up to CORE runs in a worker, which knows TVM and not torch.


class _WithoutTorch(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "torch":
            raise ModuleNotFoundError("a search has no use for torch", name=name)


def _leave_torch_out() -> None:
    """TVM's interface imports torch where it is installed: four of five seconds of a worker's start."""
    if "tvm" not in sys.modules and not any(isinstance(one, _WithoutTorch) for one in sys.meta_path):
        sys.meta_path.insert(0, _WithoutTorch())


def propose(workload: Workload, compiler: Compiler, history: History, count: int) -> list[Choice]:
    """What to try next, as `autoschedule.search.propose` says."""
    _leave_torch_out()
    from dlas.systems.autoschedule import search

    return search.propose(workload, compiler, history, count)


def prepare(workload: Workload, compiler: Compiler, folder: Path) -> None:
    """Write input and oracle, as `autoschedule.candidate.prepare` says."""
    _leave_torch_out()
    from dlas.systems.autoschedule import candidate

    candidate.prepare(workload, compiler, folder)


def build(workload: Workload, compiler: Compiler, choice: Choice, path: Path) -> float:
    """Compile a variant, as `autoschedule.candidate.build` says."""
    _leave_torch_out()
    from dlas.systems.autoschedule import candidate

    return candidate.build(workload, compiler, choice, path)


@dataclass(frozen=True)
class Core:
    """What a search needs TVM for: functions that a worker can be sent by their names."""

    propose: Callable[[Workload, Compiler, History, int], list[Choice]] = propose
    prepare: Callable[[Workload, Compiler, Path], None] = prepare
    build: Callable[[Workload, Compiler, Choice, Path], float] = build


CORE = Core()


class Builders:
    """Warm processes that compile, each driven by a thread. Use it as a context manager."""

    def __init__(self, count: int, log: Path) -> None:
        self._log = log
        self._workers = [Worker() for _ in range(count)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # Its threads live as long as the processes: these end with the thread that started them.
        self._pool = ThreadPoolExecutor(count, "builder")
        self._closed = False

    def __enter__(self) -> Builders:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for worker in self._workers:
            worker.stop()  # whatever it compiles, nobody waits for it
        self._pool.shutdown(cancel_futures=True)

    def submit(self, limit: Limit, function: Callable[..., T], *args: Any) -> Future[T]:
        """Have a process call a function; its errors are those of `Worker.call`."""
        return self._pool.submit(self._call, limit, function, args)

    def call(self, limit: Limit, function: Callable[..., T], *args: Any) -> T:
        return self.submit(limit, function, *args).result()

    def _call(self, limit: Limit, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        worker = self._idle.get()
        try:
            if self._closed:
                raise BuildError("the search has ended")
            return worker.call(self._log, limit, function, *args)
        finally:
            self._idle.put(worker)


@dataclass(frozen=True)
class Network:
    """A workload as a network: what it is given, and what it must compute. input and oracle: float32."""

    input: np.ndarray
    oracle: np.ndarray

    @staticmethod
    def read(folder: Path) -> Network:
        """What `prepare` has written."""
        import numpy as np

        arrays = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("input", "oracle"))
        return Network(*arrays)


@dataclass(frozen=True)
class Verdict:
    """What came of running a variant: as in `Record`."""

    median_ns: int | None
    reason: str
    detail: str
    seconds: float


class Station:
    """A device in a search, with the one session of it. Use it as a context manager.

    A session belongs to one thread: where there are several stations, each has its own.
    """

    def __init__(self, place: Place, threads: int, run_s: float = RUN_S) -> None:
        self.place = place
        self._threads = threads
        self._run_s = run_s
        self._stack = ExitStack()
        self._pool = ThreadPoolExecutor(1, "device")
        self._session: Session | None = None

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()  # first what it still measures, then its session
        self._stack.close()

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Have its own thread call a function."""
        return self._pool.submit(function, *args)

    def try_out(self, module: Path, network: Network, best_ns: int | None) -> Verdict:
        """Run, check and time a variant, always from the same thread. best_ns: of its workload so far.

        Raises DeviceLostError when the device went away, and what else is no fault of the variant.
        """
        job = Job(
            module=module,
            inputs=network.input[None],
            output_shape=network.oracle.shape,
            threads=self._threads,
            repeats=choose_repeats(best_ns),
            warmups=WARMUPS,
            timeout_s=self._run_s,
            flush_bytes=FLUSH_BYTES,
        )
        if self._session is None:
            self._session = self._stack.enter_context(self.place.device.session(self._run_s))
        started = time.monotonic()
        try:
            result = self._session.run(job)
        except DeviceBusyError:
            raise
        except DeviceError as error:
            seconds = time.monotonic() - started
            return Verdict(None, "timed_out" if seconds >= self._run_s else "crashed", error.cause, seconds)
        seconds = time.monotonic() - started
        difference = error_over_scale(result.outputs[0], network.oracle)
        if fault := find_fault(difference, "fp32", result.output_stable, "the oracle"):
            return Verdict(None, "wrong_output", fault, seconds)
        return Verdict(round(median(result.samples_ns)), "", "", seconds)


def choose_repeats(best_ns: int | None) -> int:
    """So many that the samples of a variant like the best take SAMPLES_NS, within bounds.

    >>> choose_repeats(None), choose_repeats(1_000_000), choose_repeats(10_000), choose_repeats(10**9)
    (10, 10, 10, 3)
    """
    if best_ns is None:
        return FIRST_REPEATS
    return min(max(round(SAMPLES_NS / best_ns), LEAST_REPEATS), MOST_REPEATS)


def is_here(device: Device) -> bool:
    """Whether a device is this machine, where what is compiled meanwhile disturbs what is timed."""
    return not isinstance(device, DockerDevice) or device.engine.is_local
