"""Which datasets there are, where each of them lies, and how to get one that does not."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dlas.cache import digest, hash_file, hash_files
from dlas.errors import DataError, StorageError, UsageError, did_you_mean
from dlas.tomlfile import shown
from dlas.values import Data

CIFAR10_FOLDER = "cifar-10-batches-py"  # as in the published archive
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
# The names that TorchVision's ImageFolder takes for images, in small letters.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_IMAGENET_CLASS = re.compile(r"n\d{8}")
_DIGITS_FILE = "datasets/data/digits.csv.gz"  # in scikit-learn's package


@dataclass(frozen=True)
class Known:
    """A dataset that dlas can read.

    input_shape: (1, C, H, W), what networks take unless they say otherwise. instructions: how to get
    it, the next step of an error.
    """

    name: str
    description: str
    input_shape: tuple[int, ...]
    classes: int
    instructions: str
    trains: bool = True  # whether networks can be trained on it here


DATASETS: Mapping[str, Known] = {
    known.name: known
    for known in (
        Known(
            "cifar10",
            "60,000 photographs of 32x32 (TorchVision's files)",
            (1, 3, 32, 32),
            10,
            "get it with `invoke data --fetch cifar10`, or give a copy with `--data cifar10=PATH`",
        ),
        Known(
            "digits",
            "1,797 handwritten digits of 8x8, as 32x32 (in scikit-learn)",
            (1, 3, 32, 32),
            10,
            "install scikit-learn, in the version that requirements/ says: it brings them",
        ),
        Known(
            "imagenet",
            "the 50,000 validation images of ILSVRC 2012 (a folder for each class)",
            (1, 3, 224, 224),
            1000,
            "register at https://www.image-net.org for the validation images, sort them into their 1000 "
            "class folders (torchvision.datasets.ImageNet does), and give their folder with "
            "`--data imagenet=PATH`",
            trains=False,
        ),
    )
}


def known(name: str) -> Known:
    """The dataset of a name. Raises DataError, with the names that there are."""
    if name not in DATASETS:
        raise DataError(_unknown(name), did_you_mean(name, DATASETS) or "give one of them")
    return DATASETS[name]


def folders(option: str, root: Path) -> dict[str, Path]:
    """Where each dataset is to lie: <root>/<name>, or as `option` says: `cifar10=/a,imagenet=/b`.

    A path in `option` is a folder that is there, without a comma in its name. Raises UsageError.
    """
    found = {name: root / name for name in DATASETS}
    given: dict[str, Path] = {}
    for word in (word.strip() for word in option.split(",")):
        if not word:
            continue
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise UsageError(f"--data {word!r} is not NAME=PATH", "write it as in --data cifar10=PATH")
        if name not in DATASETS:
            raise UsageError(f"--data: {_unknown(name)}", did_you_mean(name, DATASETS) or "give one of them")
        if name == "digits":
            raise UsageError("--data: digits comes with scikit-learn and has no folder", "leave it out")
        if name in given:
            raise UsageError(f"--data names {name} twice", "give it one folder")
        given[name] = Path(os.path.expanduser(text)).absolute()
        if not given[name].is_dir():
            what = "is no folder" if given[name].exists() else "does not exist"
            raise UsageError(f"--data {name}: {given[name]} {what}", "give the folder that holds the dataset")
    return found | given


def locate(name: str, folders: Mapping[str, Path]) -> Data:
    """The dataset that lies in its folder: looked at and hashed, not read.

    Its sha256 covers, for cifar10, the contents of its files (whether they are the published ones is
    not asked: only `fetch` checks that); for digits that of scikit-learn's data file; for imagenet the
    images' names below the folder and their sizes in bytes, but not their contents, which are 6.7 GB.
    Raises DataError, which says where it looked and how to get the dataset.
    """
    known(name)
    if name == "digits":
        return _locate_digits()
    with _reading(folders[name]):
        return _locate_cifar10(folders[name]) if name == "cifar10" else _locate_imagenet(folders[name])


def status(folders: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Name and one line for each dataset: where it lies and how its sha256 begins, or why it is not there."""
    return [(name, _status(name, folders)) for name in DATASETS]


def _status(name: str, folders: Mapping[str, Path]) -> str:
    try:
        data = locate(name, folders)
    except DataError as error:
        return str(error)
    return f"{shown(data.path) if data.path else 'in scikit-learn'}, sha256 {data.sha256[:12]}"


def _unknown(name: str) -> str:
    return f"unknown dataset {name!r}, known are {', '.join(DATASETS)}"


def _locate_cifar10(root: Path) -> Data:
    inside = root / CIFAR10_FOLDER
    folder = inside if inside.is_dir() else root
    missing = [name for name in CIFAR10_FILES if not (folder / name).is_file()]
    how = DATASETS["cifar10"].instructions
    if folder == root and len(missing) == len(CIFAR10_FILES):
        raise DataError(f"cifar10 is not there: looked in {shown(root)} and {shown(inside)}", how)
    if missing:
        raise DataError(f"cifar10 is incomplete: {folder} lacks {', '.join(missing)}", _anew(folder, how))
    paths = [folder / name for name in CIFAR10_FILES]
    for path in paths:
        if not _ends_as_pickle(path):
            raise DataError(f"cifar10 is damaged: {path} is no whole pickle file", _anew(folder, how))
    return Data("cifar10", folder, hash_files(paths))


def _anew(folder: Path, how: str) -> str:
    return f"remove {folder}, then {how}"


def _ends_as_pickle(path: Path) -> bool:
    """Whether the last byte is the one that ends each pickle: sees most files that were cut short."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() == pickle.STOP


def _locate_imagenet(root: Path) -> Data:
    """Labels are positions in the sorted list of class folders, so these must be all, and the right ones."""
    inside = root / "val"
    folder = inside if inside.is_dir() else root
    how = DATASETS["imagenet"].instructions
    if not folder.is_dir():
        raise DataError(f"imagenet is not there: looked in {shown(root)} and {shown(inside)}", how)
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    if len(classes) != (needed := DATASETS["imagenet"].classes):
        cause = f"imagenet: {folder} has {len(classes)} class folders and needs all {needed}"
        raise DataError(f"{cause}: labels are positions in their sorted list", how)
    for name in classes:
        if not _IMAGENET_CLASS.fullmatch(name):
            cause = (
                f"imagenet: {folder / name} is no WordNet id such as n01440764, whose order gives the labels"
            )
            raise DataError(cause, how)
    parts: list[str] = []
    for name in classes:
        images = sorted(_images(folder / name, name))
        if not images:
            raise DataError(f"imagenet: {folder / name} holds no image", how)
        parts += [text for image, size_bytes in images for text in (image, str(size_bytes))]
    return Data("imagenet", folder, digest(*parts))


def _images(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Name, behind `prefix`, and bytes of each image in here and below."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images(Path(entry.path), f"{prefix}/{entry.name}")
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                yield f"{prefix}/{entry.name}", entry.stat().st_size


def _locate_digits() -> Data:
    how = DATASETS["digits"].instructions
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("digits are not there: scikit-learn is not installed in this Python", how)
    path = Path(spec.origin).parent / _DIGITS_FILE
    if not path.is_file():
        raise DataError(f"digits are not there: scikit-learn lacks {path}", how)
    with _reading(path):
        return Data("digits", None, hash_file(path))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = f"{error.filename or path} cannot be read: {error.strerror or error}"
        raise DataError(cause, "check its permissions and the disk") from error
    except StorageError as error:
        raise DataError(error.cause, "check its permissions and the disk") from error
