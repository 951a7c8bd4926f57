"""Command lines of jobs, as lists: on this machine, and in a container without network, rights or disk."""

from __future__ import annotations

import math
from pathlib import Path

from dlas.errors import StorageError
from dlas.hardware import identity, lock, protocol
from dlas.values import Job, Target

_MIB = 1 << 20


def local_run_command(binary: Path, folder: str, locks: Path, wait_s: int, job: Job) -> list[str]:
    """One job of the runner on this machine. folder: an empty one of its own."""
    return [str(binary), *_run_arguments(folder, locks / lock.NAME, wait_s, job)]


def docker_run_command(
    docker: str, target: Target, image_id: str, name: str, locks: Path, wait_s: int, job: Job
) -> list[str]:
    """One job of the runner in a container. Raises StorageError when there is no module."""
    board = target.board
    disk_mib, memory_mib = container_mib(job)
    return [
        *_sealed_container(docker),
        f"--name={name}",
        f"--tmpfs=/job:rw,exec,nosuid,size={disk_mib}m,mode=1777",  # exec: the network is a library
        f"--memory={memory_mib}m",
        f"--memory-swap={memory_mib}m",
        f"--pids-limit={max(64, job.threads + 16)}",
        *([f"--cpuset-cpus={board.cpu_set}"] if board.cpu_set else []),
        f"--volume={locks}:/lock:ro",
        *(f"--device={path}" for path in board.devices),
        *(f"--volume={mount}" for mount in board.mounts),
        *(f"--group-add={group}" for group in board.groups),
        *([f"--runtime={board.container_runtime}"] if board.container_runtime else []),
        image_id,
        *_run_arguments("/job", Path("/lock", lock.NAME), wait_s, job),
    ]


def docker_probe_command(docker: str, image_id: str) -> list[str]:
    """The question who this machine is, asked from inside a container."""
    machine_id = identity.MACHINE_ID
    mount = [f"--volume={machine_id}:{machine_id}:ro"] if Path(machine_id).is_file() else []
    return [*_sealed_container(docker), *mount, image_id, "probe"]


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


def _sealed_container(docker: str) -> list[str]:
    return [
        docker,
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


def _run_arguments(folder: str, lock_file: Path, wait_s: int, job: Job) -> list[str]:
    limits = ["--timeout-s", str(math.ceil(job.timeout_s)), "--wait-s", str(wait_s)]
    return ["serve", "--dir", folder, "--lock", str(lock_file), *limits]
