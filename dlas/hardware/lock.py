"""The device's lock, so that no two jobs run at once, whoever they are from.

The runner takes it: flock, which ends with the process that holds it.

On this machine it is a file of the user's, which jobs outside containers take too. On a board, where nothing
is installed, it is a volume of the container engine: all clients of that engine share it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dlas.errors import DeviceBusyError, StorageError

NAME = "device.lock"
VOLUME = "dlas-lock"
WAIT_S = 300  # how long a job waits for another one to leave the device
_POLL_S = 0.05


@dataclass(frozen=True)
class Lock:
    """folder: of this machine, or a volume. file: what is locked in it, "/name"; empty for the folder."""

    folder: str
    file: str = ""


def local_lock(folder: Path) -> Lock:
    """The lock in a folder of `lock_folder`."""
    return Lock(str(folder), f"/{NAME}")


def lock_folder(parent: Path | None = None) -> Path:
    """A folder of this user in the system's temporary folder, readable by all, with the lock file in it.

    Raises StorageError when something else has its name: in a shared folder anybody can take one.
    """
    uid = os.getuid()
    folder = (parent or Path(tempfile.gettempdir())) / f"dlas-{uid}"
    try:
        folder.mkdir(exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
            raise StorageError(f"{folder} is no folder of this user", "have it removed")
        folder.chmod(0o755)  # the user of a container opens the file too
        os.close(_open(folder / NAME))
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}", "set TMPDIR to a folder of yours") from error
    return folder


@contextmanager
def hold(path: Path, wait_s: float) -> Iterator[None]:
    """Hold a lock file for the length of the block. Raises DeviceBusyError after wait_s seconds."""
    descriptor = _open(path)
    try:
        deadline = time.monotonic() + wait_s
        while not _take(descriptor):
            if time.monotonic() > deadline:
                raise DeviceBusyError(f"{path} was held for {wait_s:g} s", "wait for the other run to end")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    os.fchmod(descriptor, 0o644)
    return descriptor
