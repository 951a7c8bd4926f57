"""The images of a dataset: fixed splits in a fixed order, and what makes a network's input of an image."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dlas.datasets import catalog
from dlas.errors import DataError, did_you_mean
from dlas.models import vision
from dlas.values import Data

SPLITS = ("train", "val", "test")
Transform = Callable[[Any], Tensor]  # of a PIL image
Opened = tuple[Callable[[int], Image.Image], np.ndarray, np.ndarray]  # reader, labels, a split's positions

# Mean and standard deviation of red, green and blue over all pixels of the training images, of 0 to 1.
# cifar10: over the 50,000 published ones; as 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7 of 255 in the code of
# Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016. digits: over `train`, a test computes them anew.
_MEAN = {"cifar10": (0.4914, 0.4822, 0.4465), "digits": (0.3054,) * 3}
_STD = {"cifar10": (0.2470, 0.2435, 0.2616), "digits": (0.3758,) * 3}

_SEED = 0
_HELD_OUT_DIGITS = 360  # in each of val and test, of 1,797
_RESIZE_TO_CROP = 256 / 224  # of TorchVision's classification presets


class Split(Dataset[tuple[Tensor, int]]):
    """Images in a fixed order, read when asked for. Items: what the transform gives, and the label.

    labels: int64 (len,), in the same order.
    """

    def __init__(
        self,
        read: Callable[[int], Image.Image],
        labels: np.ndarray,
        positions: np.ndarray,
        transform: Transform,
    ) -> None:
        self.labels = labels[positions].astype(np.int64)
        self._read = read
        self._positions = positions
        self._transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._read(int(self._positions[index]))
        return self._transform(image), int(self.labels[index])


def open_split(data: Data, split: str, transform: Transform | None = None) -> Split:
    """The images of train, val or test. Items: float32 (C, H, W) and an int; normalised without a transform.

    A split is the same on every machine, and so is its order: a fixed seed decides, never a file system.
    Its first n images are the beginning of its first n + 1.

    cifar10: test is the published test batch; a tenth of the training batches is val. Its files are
    pickles, and reading a pickle runs what it says: take copies only from where you trust.
    imagenet: the published validation images, nine tenths test and one tenth val, decoded when asked for.
    digits: scikit-learn's copy of the test part of UCI's Optical Recognition of Handwritten Digits, 60%
    train, 20% val, 20% test, each digit alike in all three. The same writers are in all three, so its
    accuracy says little of unknown writers. Pixels of 0 to 16 become 0 to 255, each a square of 4x4.
    Raises DataError.
    """
    known = catalog.known(data.name)
    if split not in SPLITS:
        cause = f"{data.name} has no split {split!r}, there are {', '.join(SPLITS)}"
        raise DataError(cause, did_you_mean(split, SPLITS) or "give one of them")
    opened = {"cifar10": _cifar10, "digits": _digits, "imagenet": _imagenet}[data.name]
    read, labels, positions = opened(data, split)
    if not len(positions):
        raise DataError(f"{data.name}: {data.path} has no image for {split}", known.instructions)
    return Split(read, labels, positions, transform or test_transform(data.name, known.input_shape))


def test_transform(name: str, input_shape: tuple[int, ...]) -> Transform:
    """From a PIL image (RGB) to a normalised float32 (C, H, W), for an input_shape of (N, 3, H, W).

    imagenet: as TorchVision evaluates its networks: the shorter side to 256/224 of H, bilinear, then
    the middle square of H. Others: resized (bilinear) where H and W are not the dataset's own.
    Raises DataError for a shape that its images cannot have.
    """
    size = _size(name, input_shape)
    vision.name_operators()
    if name == "imagenet":
        from torchvision.models import ResNet50_Weights

        preset = ResNet50_Weights.IMAGENET1K_V1.transforms
        made: Transform = preset(crop_size=size[0], resize_size=round(_RESIZE_TO_CROP * size[0]))
        return made
    return _composed(_last_steps(name, size))


def train_transform(name: str, input_shape: tuple[int, ...], crop_padding: int, flip: bool) -> Transform:
    """As `test_transform`, behind a random crop of the image in a border of zeros and a random flip.

    crop_padding: width of the border in the dataset's own pixels, 0 for no crop. flip: left and right
    change places in half of the images. PyTorch's global generator draws. Raises DataError.
    """
    size = _size(name, input_shape)
    if name == "imagenet":
        raise _no_training()
    vision.name_operators()
    from torchvision import transforms

    own = catalog.known(name).input_shape[2:]
    crop = [transforms.RandomCrop(own, padding=crop_padding)] if crop_padding else []
    flips = [transforms.RandomHorizontalFlip()] if flip else []
    return _composed([*crop, *flips, *_last_steps(name, size)])


def save_evaluation(data: Data, split: str, count: int, transform: Transform | None, folder: Path) -> int:
    """Write the first `count` images of a split, or all where there are fewer; returns how many.

    Into `folder`, which exists: images.npy float32 (n, C, H, W), one image in memory at a time, and
    labels.npy int64 (n,). Raises DataError, and OSError for a full disk.
    """
    if count < 1:
        raise DataError(f"{data.name}: {count} images are none to evaluate on", "give a count of 1 or more")
    images = open_split(data, split, transform)
    n = min(count, len(images))
    path = folder / "images.npy"
    array = open_memmap(path, mode="w+", dtype=np.float32, shape=(n, *images[0][0].shape))
    with path.open("r+b") as file:  # writing to mapped memory that a full disk cannot hold would kill us
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    for index in range(n):
        array[index] = images[index][0].numpy()
    array.flush()
    np.save(folder / "labels.npy", images.labels[:n])
    return n


def _size(name: str, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an input, where images of the dataset can have its shape."""
    own = catalog.known(name).input_shape
    if len(input_shape) != len(own) or input_shape[1] != own[1] or min(input_shape) < 1:
        cause = f"{name}: its images cannot have the shape {list(input_shape)} of the network's input"
        raise DataError(cause, f"give a network that takes [N, {own[1]}, H, W], as {list(own)}")
    height, width = input_shape[2:]
    if name == "imagenet" and height != width:
        cause = f"imagenet: its images are cropped to squares, the network takes {height}x{width}"
        raise DataError(cause, "give a network with a square input")
    return height, width


def _last_steps(name: str, size: tuple[int, int]) -> list[Callable[[Any], Any]]:
    from torchvision import transforms

    resize = [] if size == catalog.known(name).input_shape[2:] else [transforms.Resize(size)]
    return [*resize, transforms.ToTensor(), transforms.Normalize(_MEAN[name], _STD[name])]


def _composed(steps: list[Callable[[Any], Any]]) -> Transform:
    from torchvision import transforms

    composed: Transform = transforms.Compose(steps)
    return composed


def _cifar10(data: Data, split: str) -> Opened:
    pixels, labels = _read_cifar10(_folder(data), split != "test")
    order = _permutation(len(labels))
    held_out = len(order) // 10
    positions = {"train": order[held_out:], "val": order[:held_out], "test": order}[split]
    return partial(_from_array, pixels), labels, positions


def _read_cifar10(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 32, 32, 3) and labels (N,) of the training batches, or of the test batch."""
    vision.name_operators()
    from torchvision.datasets import CIFAR10

    # TorchVision's own class refuses any files but the published ones.
    facts = {
        "base_folder": "",
        "train_list": [(name, None) for name in catalog.CIFAR10_FILES if name.startswith("data_batch")],
        "test_list": [("test_batch", None)],
        "meta": CIFAR10.meta | {"md5": None},
    }
    try:
        files = type("CopyOfCifar10", (CIFAR10,), facts)(str(folder), train=train)
        pixels, labels = files.data, np.array(files.targets)
        classes = len(files.classes)
    except Exception as error:  # unpickling runs what a file says and may raise anything
        reason = next(iter(str(error).splitlines()), "")
        raise _damaged(folder, f"{type(error).__name__}: {reason}") from error
    if pixels.dtype != np.uint8 or labels.shape != (len(pixels),):
        raise _damaged(folder, f"{len(pixels)} images of {pixels.dtype}, {len(labels)} labels")
    if classes != 10 or not set(labels.tolist()) <= set(range(10)):
        raise _damaged(folder, "its classes are not 0 to 9")
    return pixels, labels


def _damaged(folder: Path, reason: str) -> DataError:
    how = catalog.known("cifar10").instructions
    return DataError(f"cifar10: {folder} is not what TorchVision reads: {reason}", f"remove it, then {how}")


def _digits(data: Data, split: str) -> Opened:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    pixels = np.kron(pixels, np.ones((4, 4), np.uint8))  # (N, 32, 32)
    pixels = np.repeat(pixels[..., np.newaxis], 3, axis=-1)
    draw = partial(train_test_split, test_size=_HELD_OUT_DIGITS, random_state=_SEED)
    rest, test = draw(np.arange(len(pixels)), stratify=bunch.target)
    train, val = draw(rest, stratify=bunch.target[rest])
    return partial(_from_array, pixels), bunch.target, {"train": train, "val": val, "test": test}[split]


def _imagenet(data: Data, split: str) -> Opened:
    if split == "train":
        raise _no_training()
    vision.name_operators()
    from torchvision.datasets import ImageFolder

    paths, labels = zip(*ImageFolder(str(_folder(data))).samples, strict=True)
    order = _permutation(len(paths))
    tested = len(order) - len(order) // 10
    return (
        partial(_from_file, paths),
        np.array(labels),
        {"test": order[:tested], "val": order[tested:]}[split],
    )


def _folder(data: Data) -> Path:
    if data.path is None:
        raise DataError(f"{data.name} has no folder", catalog.known(data.name).instructions)
    return data.path


def _permutation(count: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(_SEED)).permutation(count)


def _from_array(pixels: np.ndarray, position: int) -> Image.Image:
    return Image.fromarray(pixels[position])


def _from_file(paths: tuple[str, ...], position: int) -> Image.Image:
    try:
        with Image.open(paths[position]) as image:
            return image.convert("RGB")
    except Exception as error:  # each format's decoder has its own
        cause = f"imagenet: {paths[position]} is no image that can be read: {type(error).__name__}"
        raise DataError(cause, "put the published file in its place") from error


def _no_training() -> DataError:
    return DataError("imagenet has no training split here", "train on cifar10 or digits, or use val and test")
