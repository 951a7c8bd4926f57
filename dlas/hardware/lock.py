"""The device's lock: one file for each user of this machine, so that two checkouts do not time at once.

The runner takes it (flock, which ends with the process that holds it); here are the folder and the file.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlas.errors import DeviceBusyError, StorageError

NAME = "device.lock"
_POLL_S = 0.05


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
