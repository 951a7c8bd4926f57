"""Command lines of jobs, as lists: on this machine, and in a container without network, rights or disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlas.errors import StorageError
from dlas.hardware import engine as engines
from dlas.hardware import protocol
from dlas.hardware.engine import Engine
from dlas.hardware.runner import KERNELS
from dlas.values import Board, Job, Target

_MIB = 1 << 20
_LOCK_FOLDER = "/lock"
_KERNELS_FOLDER = f"/opt/dlas/{KERNELS}"  # of the image: the volume is made from it, with its permissions
_KERNELS_VOLUME = "dlas-kernels"


def local_run_command(binary: Path, folder: str, lock: str, wait_s: int, job: Job) -> list[str]:
    """One job of the runner on this machine. folder: an empty one of its own."""
    return [str(binary), *_arguments("run", folder, lock, wait_s, job.timeout_s)]


def local_serve_command(binary: Path, folder: str, lock: str, wait_s: int, timeout_s: float) -> list[str]:
    """The runner on this machine for one job after another, each with timeout_s. folder: as for one."""
    return [str(binary), *_arguments("serve", folder, lock, wait_s, timeout_s)]


def local_probe_command(binary: Path, lock: str) -> list[str]:
    """The question who this machine is and, with a lock, whether no job runs on it."""
    return [str(binary), "probe", *(["--lock", lock] if lock else [])]


def docker_run_command(
    engine: Engine, target: Target, image_id: str, name: str, lock: str, wait_s: int, job: Job
) -> list[str]:
    """One job of the runner in a container. Raises EngineError, or StorageError when there is no module."""
    arguments = _arguments("run", "/job", _LOCK_FOLDER, wait_s, job.timeout_s)
    return engine.command(*_job_container(target, name, lock, room_for(job)), image_id, *arguments)


def docker_serve_command(
    engine: Engine,
    target: Target,
    image_id: str,
    name: str,
    lock: str,
    wait_s: int,
    timeout_s: float,
    room: Room,
) -> list[str]:
    """The runner in a container for one job after another, each with timeout_s. Raises EngineError."""
    arguments = _arguments("serve", "/job", _LOCK_FOLDER, wait_s, timeout_s)
    return engine.command(*_job_container(target, name, lock, room), image_id, *arguments)


def _job_container(target: Target, name: str, lock: str, room: Room) -> list[str]:
    return [
        *_sealed_container(),
        f"--name={name}",
        f"--label={engines.JOB_LABEL}={target.name}",
        f"--tmpfs=/job:rw,exec,nosuid,size={room.disk_mib}m,mode=1777",  # exec: the network is a library
        f"--memory={room.memory_mib}m",
        f"--memory-swap={room.memory_mib}m",
        f"--pids-limit={room.processes}",
        *([f"--cpuset-cpus={target.board.cpu_set}"] if target.board.cpu_set else []),
        *_lock_mount(lock),
        *([f"--volume={_KERNELS_VOLUME}:{folder}"] if (folder := kernels_folder(target)) else []),
        *_board_options(target.board),
    ]


def kernels_folder(target: Target) -> str:
    """Where a container keeps compiled kernels, for those that are compiled on the device; else empty."""
    return _KERNELS_FOLDER if target.compiles_kernels else ""


def docker_probe_command(
    engine: Engine,
    image_id: str,
    board: Board | None = None,
    files: Sequence[str] = (),
    lock: str = "",
) -> list[str]:
    """The question who a machine is, asked from inside a container.

    board: what the container gets as a job's does; None for nothing. files: of the machine, for the container
    to see; the engine refuses when it has not got one. lock: as `local_probe_command`. Raises EngineError.
    """
    return engine.command(
        *_sealed_container(),
        *(f"--mount=type=bind,source={path},target={path},readonly" for path in files),
        *(_board_options(board) if board else []),
        *(_lock_mount(lock) if lock else []),
        image_id,
        "probe",
        *(["--lock", _LOCK_FOLDER] if lock else []),
    )


@dataclass(frozen=True)
class Room:
    """What a container may have. disk_mib: its folder in memory, a part of memory_mib."""

    disk_mib: int
    memory_mib: int
    processes: int

    def holds(self, other: Room) -> bool:
        return (
            self.disk_mib >= other.disk_mib
            and self.memory_mib >= other.memory_mib
            and self.processes >= other.processes
        )

    @property
    def doubled(self) -> Room:
        """For jobs that are somewhat larger."""
        return Room(2 * self.disk_mib, 2 * self.memory_mib, self.processes)


def room_for(job: Job) -> Room:
    """What the container of a job may have. Raises StorageError when there is no module."""
    return Room(*container_mib(job), processes=max(64, job.threads + 16))


def container_mib(job: Job) -> tuple[int, int]:
    """Size of the folder in memory, and of all memory: module, unpacked weights, buffers, and ample room.

    Of the inputs one at a time is there, and all of the outputs.
    """
    try:
        module_bytes = job.module.stat().st_size
    except OSError as error:
        raise StorageError(f"{job.module}: {error.strerror}", "build the artifact again") from error
    module_mib = module_bytes // _MIB + 1
    tensors_mib = (protocol.input_bytes(job) + protocol.outputs_bytes(job)) // _MIB + 1
    disk_mib = module_mib + 16
    return disk_mib, disk_mib + 4 * (module_mib + tensors_mib) + 512


def _sealed_container() -> list[str]:
    return [
        "run",
        "--rm",
        "--interactive",
        "--init",
        "--pull=never",
        "--log-driver=none",  # the answer is megabytes of raw bytes; the engine would keep a copy
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--user=10001:10001",
    ]


def _lock_mount(lock: str) -> list[str]:
    return [f"--volume={lock}:{_LOCK_FOLDER}:ro"]


def _board_options(board: Board) -> list[str]:
    """What a board's containers need of it."""
    return [
        *(f"--device={path}" for path in board.devices),
        *(f"--volume={mount}" for mount in board.mounts),
        *(f"--group-add={group}" for group in board.groups),
        *([f"--runtime={board.container_runtime}"] if board.container_runtime else []),
    ]


def _arguments(verb: str, folder: str, lock: str, wait_s: int, timeout_s: float) -> list[str]:
    limits = ["--timeout-s", str(math.ceil(timeout_s)), "--wait-s", str(wait_s)]
    return [verb, "--dir", folder, "--lock", lock, *limits]
