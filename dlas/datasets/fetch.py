"""Getting a dataset that may be got by a program."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import URLError

from dlas.cache import atomic_folder
from dlas.datasets import catalog
from dlas.errors import DataError
from dlas.models import vision
from dlas.values import Data

NETWORK_ERRORS = (URLError, ConnectionError, TimeoutError, SSLError, HTTPException)
_SILENCE_S = 60.0  # that a server may keep


def fetch(name: str, folder: Path, say: Callable[[str], None]) -> Data:
    """Make sure that a dataset is there, and tell what was done with `say`.

    cifar10 is downloaded into `folder` by TorchVision, which shows its progress and compares the
    archive and each file with the published MD5; `folder` appears whole or not at all. What is there
    already is left as it is. digits need no fetching. Raises DataError with the next step, also for
    imagenet where it is not there, and StorageError for a full disk.
    """
    if name == "cifar10" and not (folder.is_file() or _has_content(folder)):
        _download_cifar10(folder, say)
        data = catalog.locate(name, {name: folder})
        say(f"cifar10: fetched into {data.path}")
        return data
    data = _already_there(name, folder)
    say(f"{name}: nothing to fetch, {'it lies in ' + str(data.path) if data.path else 'scikit-learn has it'}")
    return data


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _already_there(name: str, folder: Path) -> Data:
    try:
        return catalog.locate(name, {name: folder})
    except DataError as error:
        if name != "cifar10":
            raise
        raise DataError(error.cause, f"empty {folder} and run the same command again") from error


def _download_cifar10(folder: Path, say: Callable[[str], None]) -> None:
    vision.name_operators()
    from torchvision.datasets import CIFAR10

    say(f"cifar10: 170 MB from {CIFAR10.url}")
    with atomic_folder(folder) as fresh, patience():
        try:
            CIFAR10(str(fresh), download=True)
        except NETWORK_ERRORS as error:
            raise _not_fetched(CIFAR10.url, str(getattr(error, "reason", error))) from error
        except RuntimeError as error:
            raise _not_fetched(CIFAR10.url, "what came is not the published archive") from error
        (fresh / CIFAR10.filename).unlink()


def _not_fetched(url: str, reason: str) -> DataError:
    cause = f"cifar10 could not be fetched from {url}: {reason}"
    return DataError(cause, "try again later, or give a copy with `--data cifar10=PATH`")


@contextmanager
def patience() -> Iterator[None]:
    """A limit to how long a silent network is waited for: TorchVision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
