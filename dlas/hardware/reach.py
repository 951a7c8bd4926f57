"""Reaching a device: which engine or program runs a target's jobs, and whether that is the target at all."""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dlas.cache import digest
from dlas.errors import EngineError, StorageError, TargetError, UsageError
from dlas.hardware import engine as engines
from dlas.hardware import identity, lock
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.hardware.engine import Engine, EngineFacts
from dlas.hardware.image import ship_image
from dlas.hardware.runner import build_runner, interface_key
from dlas.hardware.targets import HOST, HOST_WORDS
from dlas.values import ContainerImage, Device, Target

RUNNERS = ("auto", "local", "docker")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Access:
    """How the command line wants a device to be reached.

    runner: local, docker, or auto, which is docker when an engine has this runner's image, else local. host:
    of the engine, in place of the target's. emulate: let a processor of another kind imitate the target's.
    may_ship: whether a board that lacks its image gets it.
    """

    runner: str = "auto"
    host: str = ""
    emulate: bool = False
    wait_s: int = lock.WAIT_S
    may_ship: bool = True


def device(target: Target, access: Access, artifacts: Path, say: Say) -> tuple[Device, str]:
    """A device that can run jobs on a target, and a line that says which one and why.

    say gets what takes long. Raises UsageError, TargetError, BuildError, EngineError or StorageError.
    """
    check(target, access)
    can_be_local = is_this_machine(target, access)
    why = "as asked" if access.runner == "local" else "the target has no other runner"
    if access.runner != "local" and "docker" in target.board.runners:
        try:
            return docker_device(target, access, artifacts, say)
        except EngineError as error:
            if access.runner == "docker" or not can_be_local:
                raise
            why = error.cause
    if not can_be_local:
        raise TargetError(f"{target.name}: it is not this machine", "use --runner docker")
    return local_device(target, access, artifacts, say), f"local: {why}"


def local_device(target: Target, access: Access, artifacts: Path, say: Say) -> LocalDevice:
    """This machine, with the runner built if it is not there. Raises BuildError or StorageError."""
    if not Path(lock.MACHINE).is_dir():
        raise StorageError(f"there is no {lock.MACHINE}, which jobs lock", "make it, as root")
    program = build_runner(target, artifacts, say)
    kernels = str((artifacts / "kernels").resolve()) if target.compiles_kernels else ""
    return LocalDevice(target, program, artifacts / "jobs", lock.MACHINE, access.wait_s, say, kernels=kernels)


def docker_device(target: Target, access: Access, artifacts: Path, say: Say) -> tuple[DockerDevice, str]:
    """A machine through its container engine, and a line that says which.

    Ships the target's image to it from this machine's engine where it lacks it. Raises EngineError when
    engine or image is missing, UsageError when --emulate does not fit.
    """
    engine = engine_of(target, access)
    facts = engine.facts()
    emulated = check_architecture(target, access, engine, facts)
    image = obtain_image(target, engine, access.may_ship, say)
    where = "" if engine.is_local else f" at {engine.host}"
    line = f"docker: engine {facts.version}{where} has the image {target.image_tag}"
    if image.stand_in:
        line += f" on a stand-in base, {image.base}"
    if emulated:
        line += f"; {target.compiler.arch} is emulated on {facts.architecture}: only outputs count"
    return in_containers(target, access, engine, facts, image, artifacts, say), line


def in_containers(
    target: Target,
    access: Access,
    engine: Engine,
    facts: EngineFacts,
    image: ContainerImage,
    artifacts: Path,
    say: Say = lambda line: None,
) -> DockerDevice:
    """The device of an engine that was asked who it is, and of an image that it has. Raises StorageError."""
    emulated = facts.architecture != target.compiler.arch
    return DockerDevice(
        target=imitated(target, facts.cpus) if emulated else target,
        engine=engine,
        image=image,
        name=container_name(target, artifacts),
        locks=lock.lock_folder(),
        lock=lock.MACHINE,
        emulated=emulated,
        wait_s=access.wait_s,
        say=say,
    )


def engine_of(target: Target, access: Access) -> Engine:
    """The engine of --device, else of the target's board, else of this machine; emulation skips the board.

    Raises UsageError.
    """
    if access.host and not re.fullmatch(HOST, access.host):
        raise UsageError(f"--device is {access.host!r}", f"give {HOST_WORDS}")
    return engines.at(access.host or ("" if access.emulate else target.board.host))


def check_architecture(target: Target, access: Access, engine: Engine, facts: EngineFacts) -> bool:
    """Whether jobs of the target are emulated there.

    Raises EngineError or UsageError where that was not meant, TargetError where the target was detected here
    and the engine is elsewhere.
    """
    emulated = facts.architecture != target.compiler.arch
    if target.detected and not engine.is_local:
        raise TargetError(
            f"{target.name}: its values were detected on this machine, not at {engine.host}",
            "use --runner local, or write them down in a target of its own",
        )
    if emulated and not access.emulate:
        raise EngineError(
            f"{target.name}: {engine.host} is {facts.architecture}, the target is {target.compiler.arch}",
            "name the board with --device ssh://BOARD, or check outputs alone with --emulate",
        )
    if access.emulate and not emulated:
        raise UsageError(
            f"{target.name}: {engine.host} is {facts.architecture} itself, there is nothing to emulate",
            "leave --emulate out",
        )
    return emulated


def obtain_image(target: Target, engine: Engine, may_ship: bool, say: Say) -> ContainerImage:
    """The target's image on an engine, shipped there where this machine has it. Raises EngineError."""
    own = engines.at()
    found, why = usable_image(target, engine)
    if found is None and engine.host != own.host and not engine.is_local:
        here, _ = usable_image(target, own, quiet=True)
        if here is not None and not may_ship:
            raise EngineError(
                f"{target.name}: its image is not yet at {engine.host}", "the next run ships it"
            )
        if here is not None:
            ship_image(target, here, own, engine, say)
            found, why = usable_image(target, engine)
    if found is None:
        raise EngineError(f"{target.name}: {why}", f"run {engines.build_hint(target)}")
    return found


def imitated(target: Target, cpus: int) -> Target:
    """The target as an emulator can run it: without what only the board has. cpus: of the machine below."""
    board = replace(
        target.board,
        threads=min(target.board.threads, cpus),
        cpu_set="",
        devices=(),
        mounts=(),
        groups=(),
        container_runtime="",
    )
    return replace(target, board=board)


def container_name(target: Target, artifacts: Path) -> str:
    """One for each checkout of each user and machine: a board's engine has the containers of all of them."""
    try:
        machine = Path(identity.MACHINE_ID).read_text()
    except OSError:
        machine = ""
    owner = digest(machine, socket.gethostname(), str(artifacts.resolve()), str(os.getuid()))
    return f"dlas-{target.name}-{owner[:8]}"


def usable_image(target: Target, engine: Engine, quiet: bool = False) -> tuple[ContainerImage | None, str]:
    """The image that jobs may run in, or why there is none. quiet: an engine that is silent has none."""
    try:
        found = engine.find_image(target.image_tag)
    except EngineError as error:
        if not quiet:
            raise
        return None, error.cause
    if found is None:
        return None, "image absent" if engine.is_local else f"image absent at {engine.host}, and not here"
    pinned = target.image.id if target.image else ""
    if pinned and found.id != pinned:
        return None, f"the image is {found.id[:19]}, and not {pinned[:19]}, which the target pins"
    if found.runner != interface_key(target):
        return None, "the image holds another runner than this version's"
    if target.image and found.base != target.image.base and not found.stand_in:
        return None, f"the image is built on {found.base}, and not on {target.image.base}"
    return found, ""


def is_this_machine(target: Target, access: Access) -> bool:
    """Whether jobs of the target may run here outside containers."""
    engine_is_away = access.runner != "local" and not engines.at().is_local
    elsewhere = target.board.host or access.host or access.emulate or engine_is_away
    return not elsewhere and "local" in target.board.runners and target.compiler.arch == platform.machine()


def check(target: Target, access: Access) -> None:
    """Raises UsageError or TargetError for a runner that the target cannot have."""
    possible = target.board.runners
    if access.runner not in RUNNERS:
        raise UsageError(f"unknown runner {access.runner!r}", f"choose from {', '.join(RUNNERS)}")
    if not possible:
        raise TargetError(
            f"{target.name}: it can be compiled for, but not measured on", "choose another target"
        )
    if access.runner not in ("auto", *possible):
        raise TargetError(
            f"{target.name}: it has no runner {access.runner!r}", f"choose from {', '.join(possible)}"
        )
