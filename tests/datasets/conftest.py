"""The datasets of the session: small ones in the published formats, and scikit-learn's digits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dlas.datasets.catalog import locate
from dlas.models import vision
from dlas.values import Data
from tests.datasets import tiny


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Small images on busy cores: PyTorch's threads would wait for each other longer than they work."""
    vision.name_operators()  # tests import torchvision too
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cifar10_written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    root = tmp_path_factory.mktemp("cifar10")
    return root, tiny.write_cifar10(root / "cifar-10-batches-py")


@pytest.fixture(scope="session")
def cifar10(cifar10_written: tuple[Path, dict[str, np.ndarray]]) -> Data:
    return locate("cifar10", {"cifar10": cifar10_written[0]})


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("imagenet")
    tiny.write_imagenet(root / "val")
    return locate("imagenet", {"imagenet": root})


@pytest.fixture(scope="session")
def digits() -> Data:
    return locate("digits", {})


class Backwards:
    """os.scandir of a file system that lists its files the other way round."""

    scandir = staticmethod(os.scandir)

    def __init__(self, path: str | Path) -> None:
        with self.scandir(path) as entries:
            self.entries = iter(list(entries)[::-1])

    def __iter__(self) -> Backwards:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self.entries)

    def __enter__(self) -> Backwards:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes every folder list its files the other way round."""
    return lambda: monkeypatch.setattr(os, "scandir", Backwards)


@pytest.fixture
def first_class(imagenet: Data, tmp_path: Path) -> Iterator[Path]:
    """The folder of ImageNet's class 0, to spoil; it and the list of its neighbours are restored."""
    assert imagenet.path is not None
    names = sorted(os.listdir(imagenet.path))
    folder = imagenet.path / names[0]
    kept = shutil.copytree(folder, tmp_path / "kept")
    yield folder
    for spoilt in {folder.name, *os.listdir(imagenet.path)} - set(names[1:]):
        shutil.rmtree(imagenet.path / spoilt, ignore_errors=True)
    shutil.copytree(kept, folder)
    assert sorted(os.listdir(imagenet.path)) == names
