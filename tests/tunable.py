"""A space of variants whose times are known, its compiler, and a device that runs them or fails as told."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dlas import stages
from dlas.candidates import Core
from dlas.errors import BuildError, DeviceError, DeviceLostError
from dlas.hardware import targets
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.trial import Place
from dlas.values import NO_IMAGE, Cell, Compiler, ContainerImage, DeviceFacts, Job, JobResult, Target

WORKLOADS = (
    "direct/dense/1x4x4x4/4x3x3/s1x1/p1x1x1x1/d1x1/g1/z0",
    "direct/dense/1x4x4x4/4x1x1/s1x1/p0x0x0x0/d1x1/g1/z0",
)
SIZE = 200  # variants in the space, by number; 0 is the hand schedule
BUILD_FAILS, BUILD_CRASHES, CRASHES, WRONG, HANGS = 7, 17, 27, 37, 47


def variant(number: int) -> Choice:
    return Choice((("number", number),))


def number_of(choice: Choice) -> int:
    return int(dict(choice.sketch)["number"])


def median_of(number: int) -> int:
    """In nanoseconds: variant 150 is the best, the hand schedule the worst."""
    return 1_000_000 + 1_000 * abs(150 - number)


def propose(
    workload: Workload, compiler: Compiler, history: Sequence[tuple[Choice, int | None]], count: int
) -> list[Choice]:
    tried = {number_of(choice) for choice, _ in history}
    return [variant(number) for number in range(SIZE) if number not in tried][:count]


def propose_few(
    workload: Workload, compiler: Compiler, history: Sequence[tuple[Choice, int | None]], count: int
) -> list[Choice]:
    return [choice for choice in propose(workload, compiler, history, SIZE) if number_of(choice) < 5][:count]


def prepare(workload: Workload, compiler: Compiler, folder: Path) -> None:
    conv = workload.conv
    np.save(folder / "input.npy", np.zeros((conv.N, conv.CI, conv.H, conv.W), np.float32))
    np.save(folder / "oracle.npy", np.full((conv.N, conv.CO, conv.OH, conv.OW), 2, np.float32))


def build(workload: Workload, compiler: Compiler, choice: Choice, path: Path) -> float:
    number = number_of(choice)
    if number == BUILD_FAILS:
        raise BuildError("it does not compile", "try another one")
    if number == BUILD_CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    path.write_text(json.dumps(number))
    return 0.25


def build_slowly(workload: Workload, compiler: Compiler, choice: Choice, path: Path) -> float:
    time.sleep(0.02)
    return build(workload, compiler, choice, path)


def never_build(workload: Workload, compiler: Compiler, choice: Choice, path: Path) -> float:
    raise BuildError("nothing compiles today", "wait")


CORE = Core(propose, prepare, build)


@dataclass
class Bench:
    """A device of this machine. before: called with the number of each variant, and may raise."""

    target: Target = field(default_factory=lambda: targets.load("x86"))
    cpu_model: str = "CPU"
    before: Callable[[int], None] = lambda number: None
    away: bool = False
    ran: list[int] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    sessions: int = 0
    runner: str = "local"
    emulated: bool = False
    image: ContainerImage = NO_IMAGE

    def probe(self) -> DeviceFacts:
        if self.away:
            raise DeviceLostError("the device is away", "wait")
        return DeviceFacts("f" * 32, self.cpu_model)

    @contextmanager
    def session(self, timeout_s: float) -> Iterator[Bench]:
        self.sessions += 1
        yield self

    def run(self, job: Job) -> JobResult:
        number = int(json.loads(job.module.read_text()))
        self.before(number)
        self.ran.append(number)
        self.jobs.append(job)
        if number == CRASHES:
            raise DeviceError("the runner was ended by SIGSEGV", "see its log")
        outputs = np.full((1, *job.output_shape), 1 if number == WRONG else 2, np.float32)
        samples = (median_of(number),) * job.repeats
        return JobResult(outputs, True, (), samples, job.threads, "0", 0, {}, {}, 0.1, 0.1)

    @property
    def place(self) -> Place:
        return Place(self, DeviceFacts("f" * 32, self.cpu_model), 1)


def list_layers(source: object, cell: Cell, compiler: Compiler) -> list[str]:
    """A network of these two convolutions, the first of them twice; of any algorithm."""
    return [name.replace("direct", cell.algorithm) for name in (*WORKLOADS, WORKLOADS[0])]


def compile_as_scheduled(
    source: stages.Source, cell: Cell, target: Target, key: str, folder: Path, choices: Mapping[str, Choice]
) -> None:
    """As `stages.compile_cell`, but that the hand schedule stands for what the choices are."""
    from dlas.systems.artifact import write_manifest
    from dlas.systems.build import build

    imported, contents = stages.import_network(source)
    made = build(imported, contents, replace(cell, tuning="scheduled"), target, key, folder)
    write_manifest(replace(made, ops_tuned=min(len(choices), made.ops_total)), cell, target)


def prepare_relu(workload: Workload, compiler: Compiler, folder: Path) -> None:
    """A network that needs no design space."""
    conv = workload.conv
    x = np.random.default_rng(0).standard_normal((conv.N, conv.CI, conv.H, conv.W), np.float32)
    np.save(folder / "input.npy", x)
    np.save(folder / "oracle.npy", np.maximum(x, 0))


def build_relu(workload: Workload, compiler: Compiler, choice: Choice, path: Path) -> float:
    """For the real runner: variant 1 computes something else, 2 is no library, the others are right."""
    from dlas import candidates

    candidates._leave_torch_out()
    import tvm
    from tvm import relax

    number, conv = number_of(choice), workload.conv
    if number == 2:
        path.write_bytes(b"no library")
        return 0.1
    x = relax.Var("x", relax.TensorType((conv.N, conv.CI, conv.H, conv.W), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.relu(x))
            shifted = relax.op.add(y, relax.const(0.5 if number == 1 else 0.0, "float32"))
            out = builder.emit_output(shifted)
        builder.emit_func_output(out)
    tvm.compile(builder.get(), tvm.target.Target({"kind": "llvm"})).export_library(str(path))
    return 0.1
