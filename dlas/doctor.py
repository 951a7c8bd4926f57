"""What a target needs before a sweep: each thing looked at, and for what is not right what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dlas.errors import DeviceBusyError, DeviceError, DlasError, EngineError
from dlas.hardware import engine as engines
from dlas.hardware import reach
from dlas.hardware.cpu import parse_cpus
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.engine import Engine, EngineFacts
from dlas.hardware.protocol import CPU_LIST, printable
from dlas.hardware.reach import Access
from dlas.measurement import environment
from dlas.values import Target

ONLINE = "/sys/devices/system/cpu/online"
RUNNERS = ("local", "docker")  # a target that cannot be measured on yet can be looked at
REMEDIES = {
    "governor": "as root there: echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "MHz": "let it cool, and hold its clocks: governor performance; on a Jetson nvpmodel -m 0, jetson_clocks",
    "degrees": "let it cool, or give it a fan",
    "MiB": "stop what else runs there",
}


@dataclass(frozen=True)
class Check:
    """state: ok, failed, or skipped where it cannot be told. remedy: what to do, of one that failed."""

    name: str
    state: str
    words: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.state:8}{self.name:14}{self.words}"
        return printable(f"{line}; {self.remedy}" if self.remedy else line)  # a device said parts of it


def examine(target: Target, access: Access, artifacts: Path, say: Callable[[str], None]) -> None:
    """Look at a target's device, and say a line for each thing. Changes nothing there.

    Raises DeviceError when something is not as it should be.
    """
    failed = total = 0
    for check in _checks(target, access, artifacts):
        say(str(check))
        total += 1
        failed += check.state == "failed"
    if failed:
        raise DeviceError(f"{target.name}: {failed} of {total} checks failed", "see the lines above")


def _checks(target: Target, access: Access, artifacts: Path) -> Iterator[Check]:
    """In the order in which one rests on another; the first that fails among those ends them."""
    reach.check(replace(target, board=replace(target.board, runners=RUNNERS)), access)
    device: DockerDevice | LocalDevice | None = None
    can_be_local = access.runner != "docker" and reach.is_this_machine(target, access)
    if access.runner != "local":
        device = yield from _containers(target, access, artifacts, can_be_local)
    if device is None and can_be_local:
        device = reach.local_device(target, access, artifacts, lambda line: None)
        yield Check("runner", "ok", "jobs run on this machine, outside containers")
    if device is None:
        if access.runner == "local":
            yield Check("runner", "failed", "the target is not this machine", "leave --runner out")
        return
    try:
        model = device.probe().cpu_model
    except DlasError as error:
        yield Check("start", "failed", error.cause, error.next_step)
        return
    processor = target.system.processor
    if processor in model or device.emulated:
        yield Check("start", "ok", f"the runner starts; the processor is {model}")
    else:
        yield Check("start", "failed", f"the processor is {model}, and not {processor}", "see the target")
    lock = _lock(device)
    yield lock
    if lock.state == "ok" and isinstance(device, DockerDevice):
        yield from _leftovers(device)
    if device.emulated:
        yield Check("state", "skipped", "clocks, temperature and power mode are not those of the board")
        return
    yield from _state(device)
    if isinstance(device, DockerDevice):
        yield from _files(device)


def _containers(
    target: Target, access: Access, artifacts: Path, can_be_local: bool
) -> Generator[Check, None, DockerDevice | None]:
    """The device of the target's engine. can_be_local: without it, jobs run outside containers."""
    no = "skipped" if can_be_local else "failed"
    engine = reach.engine_of(target, access)
    try:
        facts = engine.facts()
        emulated = reach.check_architecture(target, access, engine, facts)
    except DlasError as error:
        yield Check("engine", no, error.cause, error.next_step)
        return None
    yield _engine(target, engine, facts, emulated)
    yield from _runtime(target, facts, emulated)
    image, why = reach.usable_image(target, engine)
    if image is None:
        yield Check("image", no, why, _image_remedy(target, engine))
        return None
    base = f"on the stand-in {image.base}" if image.stand_in else f"on {image.base}"
    yield Check("image", "ok", f"{target.image_tag} {image.id[:19]} {base}")
    return reach.in_containers(target, access, engine, facts, image, artifacts)


def _engine(target: Target, engine: Engine, facts: EngineFacts, emulated: bool) -> Check:
    how = f", {target.compiler.arch} is emulated" if emulated else ""
    return Check("engine", "ok", f"Docker {facts.version} at {engine.host}, {facts.architecture}{how}")


def _runtime(target: Target, facts: EngineFacts, emulated: bool) -> Iterator[Check]:
    wanted = target.board.container_runtime
    if not wanted or emulated:
        return
    if wanted in facts.runtimes:
        yield Check("run time", "ok", f"the engine has {wanted}")
    else:
        there = ", ".join(name for name in facts.runtimes if "." not in name)
        yield Check(
            "run time", "failed", f"the engine has no {wanted}, but {there}", "install it on the board"
        )


def _image_remedy(target: Target, engine: Engine) -> str:
    here = None if engine.is_local else reach.usable_image(target, engines.at(), quiet=True)[0]
    return "the next run ships it" if here else f"run {engines.build_hint(target)}"


def _lock(device: DockerDevice | LocalDevice) -> Check:
    try:
        device.observe((), device.lock)
    except DeviceBusyError as error:
        running = ", ".join(device.engine.jobs()) if isinstance(device, DockerDevice) else ""
        return Check("lock", "failed", error.cause + (f" ({running})" if running else ""), "wait for it")
    except (DeviceError, EngineError) as error:
        return Check("lock", "failed", error.cause, error.next_step)
    return Check("lock", "ok", "no job is running")


def _leftovers(device: DockerDevice) -> Iterator[Check]:
    left = device.engine.jobs()
    if left:
        remedy = f"if nobody runs jobs: docker --host {device.engine.host} rm -f {' '.join(left)}"
        yield Check("containers", "failed", f"there are containers of jobs: {', '.join(left)}", remedy)


def _state(device: DockerDevice | LocalDevice) -> Iterator[Check]:
    target = device.target
    state = device.observe(environment.OBSERVED)
    cpus = parse_cpus(target.board.cpu_set)
    listed = state.get(ONLINE, "").strip()
    online = parse_cpus(listed) if re.fullmatch(CPU_LIST, listed) else frozenset()
    if online and not cpus <= online:
        missing = ", ".join(map(str, sorted(cpus - online)))
        yield Check(
            "CPU set", "failed", f"CPUs {missing} are offline", "bring them online, or correct cpu_set"
        )
    else:
        yield Check("CPU set", "ok", target.board.cpu_set or "all")
    faults = environment.find_faults(target.bounds, cpus, state)
    for fault in faults:
        remedy = next((words for sign, words in REMEDIES.items() if sign in fault), "")
        yield Check("bounds", "failed", fault, remedy)
    if not faults:
        yield Check("bounds", "ok", _figures(cpus, state))


def _figures(cpus: frozenset[int], state: environment.State) -> str:
    celsius, free_mib = environment.hottest_celsius(state), environment.available_mib(state)
    clocks = environment.clocks_mhz(cpus, state)
    words = [
        f"{clocks[0]} to {clocks[-1]} MHz" if clocks else "no clock to be read",
        "/".join(environment.governors(cpus, state)) or "no governor",
        "no temperature" if celsius is None else f"{celsius:.0f} degrees Celsius",
        "memory unknown" if free_mib is None else f"{free_mib} MiB free",
    ]
    return ", ".join(words)


def _files(device: DockerDevice) -> Iterator[Check]:
    """The files that a board that is set up shows: its release, its driver, its power mode."""
    for line in device.target.system.shows:
        path, _, text = line.partition(": ")
        try:
            contents = device.observe((path,), mounts=(path,)).get(path, "")
        except (DeviceError, EngineError) as error:
            yield Check("system", "failed", f"{path}: {error.cause}", "see [system] of the target")
            continue
        if text in contents:
            yield Check("system", "ok", line)
        else:
            first = " ".join(contents.split())[:60]
            yield Check(
                "system", "failed", f"{path} has no {text!r}, but {first!r}", "see [system] of the target"
            )
