"""The device's lock, so that no two jobs run at once on a machine, whoever they are from.

It is a folder that every Linux has, and not a file of ours: jobs outside containers lock it, those in
containers of its engine, and those that come over ssh, without anything being installed. The runner takes it:
flock, which ends with the process that holds it. Here is also the lock of a container's name.
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

MACHINE = "/run/lock"
WAIT_S = 300  # how long a job waits for another one to leave the device
_POLL_S = 0.05


def lock_folder(parent: Path | None = None) -> Path:
    """A folder of this user in the system's temporary folder, where jobs wait for the name of a container.

    Raises StorageError when something else has its name: in a shared folder anybody can take one.
    """
    uid = os.getuid()
    folder = (parent or Path(tempfile.gettempdir())) / f"dlas-{uid}"
    try:
        folder.mkdir(exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
            raise StorageError(f"{folder} is no folder of this user", "have it removed")
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}", "set TMPDIR to a folder of yours") from error
    return folder


@contextmanager
def hold(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock of a file, made if it is not there, or of a folder, for the length of the block.

    Raises DeviceBusyError after wait_s seconds.
    """
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
    if path.is_dir():
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
