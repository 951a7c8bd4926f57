from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from dlas.datasets import splits
from dlas.errors import DataError
from dlas.values import Data
from tests.datasets import tiny

Written = tuple[Path, dict[str, np.ndarray]]
Opener = Callable[[str, str], splits.Split]
KEPT = {"cifar10": splits.SPLITS, "digits": splits.SPLITS, "imagenet": ("val", "test")}
EACH = [(name, split) for name, kept in KEPT.items() for split in kept]


@pytest.fixture
def opened(cifar10: Data, digits: Data, imagenet: Data) -> Opener:
    """A split with untouched pixels."""
    data = {"cifar10": cifar10, "digits": digits, "imagenet": imagenet}
    return lambda name, split: splits.open_split(data[name], split, tiny.raw)


def pixels_of(split: splits.Split) -> list[bytes]:
    return [split[index][0].numpy().tobytes() for index in range(len(split))]


def refusal(call: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar10", {"train": 180, "val": 20, "test": 40}),  # of 200 and 40
        ("digits", {"train": 1077, "val": 360, "test": 360}),
        ("imagenet", {"val": 110, "test": 990}),
    ],
)
def test_no_image_is_in_two_splits(name: str, sizes: dict[str, int], opened: Opener) -> None:
    found = {split: pixels_of(opened(name, split)) for split in KEPT[name]}
    assert {split: len(images) for split, images in found.items()} == sizes
    assert len({image for images in found.values() for image in images}) == sum(sizes.values())


@pytest.mark.parametrize(("name", "split"), EACH)
def test_an_item_is_a_normalised_image_and_its_label(name: str, split: str, opened: Opener) -> None:
    data = opened(name, split)
    items = [data[index] for index in (0, 1, len(data) - 1, -1)]
    assert torch.equal(items[2][0], items[3][0])
    assert [label for _, label in items] == data.labels[[0, 1, -1, -1]].tolist()
    assert {type(label) for _, label in items} == {int}
    assert data.labels.dtype == np.int64
    with pytest.raises(IndexError):
        data[len(data)]


@pytest.mark.parametrize(("name", "side"), [("cifar10", 32), ("digits", 32), ("imagenet", 224)])
def test_without_a_transform_images_are_those_of_a_test(
    name: str, side: int, cifar10: Data, digits: Data, imagenet: Data
) -> None:
    data = {"cifar10": cifar10, "digits": digits, "imagenet": imagenet}[name]
    image, _ = splits.open_split(data, "test")[3]
    assert (image.shape, image.dtype) == ((3, side, side), torch.float32)
    transform = splits.test_transform(name, (1, 3, side, side))
    assert torch.equal(image, splits.open_split(data, "test", transform)[3][0])


def test_the_order_is_the_one_it_always_was(digits: Data) -> None:
    """A new release of NumPy or scikit-learn that draws otherwise would make old rows another experiment."""
    assert splits._permutation(10).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    positions = [splits._digits(digits, split)[2] for split in splits.SPLITS]
    together = np.concatenate(positions).astype("<i8").tobytes()
    assert hashlib.sha256(together).hexdigest()[:16] == "022ab4edd3134f59"


@pytest.mark.parametrize(("name", "split"), EACH)
def test_the_order_is_mixed(name: str, split: str, opened: Opener) -> None:
    labels = opened(name, split).labels
    assert (np.diff(labels) < 0).mean() > 0.3
    if len(labels) >= 100:
        assert len(set(labels[:50].tolist())) > 8


def test_cifar10_pixels_are_those_of_the_files(cifar10_written: Written, opened: Opener) -> None:
    batches = cifar10_written[1]
    trained = [image.tobytes() for i in range(1, 6) for image in batches[f"data_batch_{i}"]]
    assert sorted(pixels_of(opened("cifar10", "train")) + pixels_of(opened("cifar10", "val"))) == sorted(
        trained
    )
    assert sorted(pixels_of(opened("cifar10", "test"))) == sorted(i.tobytes() for i in batches["test_batch"])


@pytest.mark.parametrize("split", splits.SPLITS)
def test_cifar10_labels_stay_with_their_images(split: str, opened: Opener) -> None:
    data = opened("cifar10", split)
    assert [image[0, 0].tolist() for image, _ in data] == [[label] * 3 for _, label in data]
    assert data.labels.tolist() == [label for _, label in data]


@pytest.mark.parametrize("split", KEPT["imagenet"])
def test_imagenet_labels_are_positions_of_their_folders(split: str, opened: Opener) -> None:
    data = opened("imagenet", split)
    assert [tiny.label_of(image.numpy()) for image, _ in data] == data.labels.tolist()


def test_imagenet_splits_hold_every_image(opened: Opener) -> None:
    labels = np.concatenate([opened("imagenet", split).labels for split in KEPT["imagenet"]])
    assert np.bincount(labels).tolist() == [2, *[1] * 9] * 100


def test_digits_are_scikit_learns(opened: Opener) -> None:
    bunch = load_digits()
    published = {(image * (255 / 16)).round().astype(np.uint8).tobytes(): int(label)
                 for image, label in zip(bunch.images, bunch.target, strict=True)}  # fmt: skip
    found = []
    for split in splits.SPLITS:
        for image, label in opened("digits", split):
            squares = image.numpy().reshape(8, 4, 8, 4, 3)
            small = np.ascontiguousarray(squares[:, 0, :, 0, 0])
            assert (squares == small[:, None, :, None, None]).all()
            assert published[small.tobytes()] == label
            found.append(small.tobytes())
    assert sorted(found) == sorted(
        image.tobytes() for image in (bunch.images * (255 / 16)).round().astype(np.uint8)
    )


def test_each_digit_is_as_often_in_each_split(opened: Opener) -> None:
    whole = np.bincount(load_digits().target) / 1797
    for split in splits.SPLITS:
        labels = opened("digits", split).labels
        assert np.abs(np.bincount(labels) - whole * len(labels)).max() < 1


def test_the_statistics_of_the_digits_are_those_of_their_training_images(opened: Opener) -> None:
    pixels = np.stack([image.numpy() for image, _ in opened("digits", "train")]) / 255
    np.testing.assert_allclose(splits._MEAN["digits"], pixels.mean((0, 1, 2)), atol=5e-5)
    np.testing.assert_allclose(splits._STD["digits"], pixels.std((0, 1, 2)), atol=5e-5)


def test_the_order_is_of_no_file_system(
    opened: Opener, imagenet: Data, tmp_path: Path, backwards: Callable[[], None]
) -> None:
    assert imagenet.path is not None
    orders = {split: pixels_of(opened("imagenet", split)) for split in KEPT["imagenet"]}
    (tmp_path / "link").symlink_to(imagenet.path)
    moved = replace(imagenet, path=tmp_path / "link")
    backwards()
    for split, order in orders.items():
        assert pixels_of(splits.open_split(moved, split, tiny.raw)) == order


def test_a_copy_has_the_same_order(opened: Opener, spoilt: Data) -> None:
    for split in splits.SPLITS:
        assert pixels_of(splits.open_split(spoilt, split, tiny.raw)) == pixels_of(opened("cifar10", split))


def picture(height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """Noise, and the same as float64 (3, height, width) of 0 to 1."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels), pixels.transpose(2, 0, 1) / 255


def normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    return (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))


CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_cifar10_is_scaled_and_normalised() -> None:
    image, pixels = picture(32, 32)
    found = splits.test_transform("cifar10", (1, 3, 32, 32))(image)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), normalised(pixels, *CIFAR10), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "resized"), [(224, 256), (14, 16)])
def test_imagenet_is_the_middle_of_an_image_that_needs_no_resizing(side: int, resized: int) -> None:
    image, pixels = picture(resized, resized + 8)
    found = splits.test_transform("imagenet", (1, 3, side, side))(image)
    top, left = (resized - side) // 2, (resized + 8 - side) // 2
    middle = pixels[:, top : top + side, left : left + side]
    np.testing.assert_allclose(found.numpy(), normalised(middle, *IMAGENET), rtol=1e-5, atol=1e-6)


def test_imagenet_is_resized_by_its_shorter_side() -> None:
    """Stripes of 16 in 48x96 become stripes of 8 in 24x48, of which the middle 21 are left."""
    stripes = np.zeros((48, 96, 3), np.uint8)
    stripes[:, 16::32] = stripes[:, 17::32] = 255
    for start in range(16, 96, 32):
        stripes[:, start : start + 16] = 255
    found = splits.test_transform("imagenet", (1, 3, 21, 21))(Image.fromarray(stripes)).numpy()
    assert found.shape == (3, 21, 21)
    left = round((48 - 21) / 2)
    halved = np.broadcast_to(stripes[::2, ::2][:21, left : left + 21].transpose(2, 0, 1) / 255, (3, 21, 21))
    inside = [column for column in range(21) if (column + left) % 8 not in (0, 7)]  # away from the edges
    assert len(inside) > 12
    np.testing.assert_allclose(
        found[:, :, inside], normalised(halved, *IMAGENET)[:, :, inside], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("make", ["test", "train"])
def test_others_are_resized_only_to_another_size(make: str) -> None:
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 255
    shape = (1, 3, 48, 64)
    transform = (
        splits.test_transform("cifar10", shape)
        if make == "test"
        else splits.train_transform("cifar10", shape, 0, False)
    )
    found = transform(Image.fromarray(halves)).numpy()
    assert found.shape == (3, 48, 64)
    wanted = normalised(np.broadcast_to(np.arange(64) >= 32, (3, 48, 64)), *CIFAR10)
    away = np.r_[0:30, 34:64]
    np.testing.assert_allclose(found[:, :, away], wanted[:, :, away], rtol=1e-5, atol=1e-6)


def windows(pixels: np.ndarray, padding: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of a padded image, rounded for comparison, by where it begins and whether it is flipped."""
    bordered = np.pad(pixels, ((0, 0), (padding, padding), (padding, padding)))
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = bordered[:, top : top + 32, left : left + 32]
            for flipped in {False, flip}:
                shown = window[:, :, ::-1] if flipped else window
                found[rounded(normalised(shown, *CIFAR10))] = (top, left, flipped)
    return found


def rounded(array: np.ndarray) -> bytes:
    return (np.rint(array * 1000).astype(np.int64) + 0).tobytes()


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (2, True)])
def test_training_crops_and_flips(padding: int, flip: bool) -> None:
    image, pixels = picture(32, 32)
    possible = windows(pixels, padding, flip)
    transform = splits.train_transform("cifar10", (1, 3, 32, 32), padding, flip)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = {possible[rounded(transform(image).numpy().astype(np.float64))] for _ in range(400)}
    assert len(possible) == (2 * padding + 1) ** 2 * (1 + flip)
    assert seen == set(possible.values())


@pytest.mark.parametrize(("name", "split"), EACH)
@pytest.mark.parametrize("count", [1, 7, 10_000])
def test_what_is_saved_are_the_first_images(
    name: str, split: str, count: int, cifar10: Data, digits: Data, imagenet: Data, tmp_path: Path
) -> None:
    data = {"cifar10": cifar10, "digits": digits, "imagenet": imagenet}[name]
    transform = splits.test_transform(name, (1, 3, 14, 14))
    whole = splits.open_split(data, split, transform)
    n = min(count, len(whole))
    assert splits.save_evaluation(data, split, count, transform, tmp_path) == n
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npy", "labels.npy"]
    images, labels = (np.load(tmp_path / f"{name}.npy", allow_pickle=False) for name in ("images", "labels"))
    assert (images.dtype, images.shape) == (np.float32, (n, 3, 14, 14))
    assert (labels.dtype, labels.shape) == (np.int64, (n,))
    for index in {0, n // 2, n - 1}:
        image, label = whole[index]
        assert images[index].tobytes() == image.numpy().tobytes()
        assert labels[index] == label


def test_saved_images_are_never_all_in_memory_and_have_their_disk(digits: Data, tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most, unclaimed = 0, []

    def watched(image: Image.Image) -> Tensor:
        nonlocal most
        most = max(most, sum(reference() is not None for reference in alive))
        path = tmp_path / "images.npy"
        if path.exists():
            held = path.stat()
            unclaimed.append(held.st_size - 512 * held.st_blocks)
        made = torch.from_numpy(np.array(image, np.float32))
        alive.append(weakref.ref(made))
        return made

    splits.save_evaluation(digits, "test", 50, watched, tmp_path)
    assert most <= 2
    assert len(unclaimed) == 50
    assert max(unclaimed) <= 0
    assert os.stat(tmp_path / "images.npy").st_size > 50 * 32 * 32 * 3 * 4


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_of_none(count: int, digits: Data, tmp_path: Path) -> None:
    error = refusal(lambda: splits.save_evaluation(digits, "test", count, None, tmp_path))
    assert str(error) == f"digits: {count} images are none to evaluate on; give a count of 1 or more"
    assert not list(tmp_path.iterdir())


def test_a_split_that_there_is_not(digits: Data, imagenet: Data) -> None:
    error = refusal(lambda: splits.open_split(digits, "tests"))
    assert str(error) == "digits has no split 'tests', there are train, val, test; did you mean test?"
    assert refusal(lambda: splits.open_split(digits, "validation")).next_step == "give one of them"
    for call in (
        lambda: splits.open_split(imagenet, "train"),
        lambda: splits.train_transform("imagenet", (1, 3, 224, 224), 4, True),
    ):
        assert refusal(call).cause == "imagenet has no training split here"


def test_a_dataset_that_there_is_not() -> None:
    data = Data("cifar", Path(), "")
    for call in (
        lambda: splits.open_split(data, "test"),
        lambda: splits.test_transform("cifar", (1, 3, 4, 4)),
    ):
        assert "unknown dataset 'cifar'" in refusal(call).cause


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32), (1, 3, 0, 32), (1, 3, 32), (10,)])
def test_a_shape_that_images_cannot_have(shape: tuple[int, ...]) -> None:
    for call in (
        lambda: splits.test_transform("cifar10", shape),
        lambda: splits.train_transform("cifar10", shape, 4, True),
    ):
        assert refusal(call).cause == (
            f"cifar10: its images cannot have the shape {list(shape)} of the network's input"
        )


def test_imagenet_has_no_oblongs() -> None:
    error = refusal(lambda: splits.test_transform("imagenet", (1, 3, 224, 192)))
    assert error.cause == "imagenet: its images are cropped to squares, the network takes 224x192"


@pytest.fixture
def spoilt(cifar10: Data, tmp_path: Path) -> Data:
    """A copy of the CIFAR files to spoil."""
    assert cifar10.path is not None
    return replace(cifar10, path=Path(shutil.copytree(cifar10.path, tmp_path / "copy")))


def entry(**changes: object) -> bytes:
    data = np.zeros((10, 3072), np.uint8)
    return pickle.dumps({"data": data, "labels": list(range(10))} | changes, protocol=2)


@pytest.mark.parametrize(
    ("file", "contents", "reason"),
    [
        ("data_batch_2", b"<html>not found</html>.", "UnpicklingError: "),
        ("data_batch_2", b"", "EOFError: "),
        ("data_batch_2", pickle.dumps([1, 2]), "TypeError: "),
        ("data_batch_2", pickle.dumps({"data": np.zeros((10, 3072), np.uint8)}), "KeyError: 'fine_labels'"),
        ("data_batch_2", entry(data=np.zeros((10, 30), np.uint8)), "ValueError: "),
        ("data_batch_2", entry(labels=[1]), "170 images of uint8, 161 labels"),
        ("data_batch_2", entry(data=np.zeros((10, 3072), np.float64)), "170 images of float64, 170 labels"),
        ("data_batch_2", entry(labels=[10] * 10), "its classes are not 0 to 9"),
        ("data_batch_2", entry(labels=[-1] * 10), "its classes are not 0 to 9"),
        ("batches.meta", pickle.dumps({"label_names": ["cat"] * 100}), "its classes are not 0 to 9"),
        ("batches.meta", pickle.dumps({}), "KeyError: 'label_names'"),
    ],
)
def test_cifar10_files_that_are_none(file: str, contents: bytes, reason: str, spoilt: Data) -> None:
    assert spoilt.path is not None
    (spoilt.path / file).write_bytes(contents)
    error = refusal(lambda: splits.open_split(spoilt, "train"))
    assert error.cause.startswith(f"cifar10: {spoilt.path} is not what TorchVision reads: {reason}")
    assert error.next_step.startswith("remove it, then get it with")


def test_cifar10_that_went_away(spoilt: Data) -> None:
    assert spoilt.path is not None
    shutil.rmtree(spoilt.path)
    assert "Dataset not found" in refusal(lambda: splits.open_split(spoilt, "test")).cause


def test_a_split_without_images(tmp_path: Path) -> None:
    tiny.write_cifar10(tmp_path / "files", per_batch=1)
    data = Data("cifar10", tmp_path / "files", "")
    assert refusal(lambda: splits.open_split(data, "val")).cause == (
        f"cifar10: {tmp_path}/files has no image for val"
    )


@pytest.mark.parametrize("keep", [0, 300])
def test_a_file_that_is_no_image_is_named(keep: int, imagenet: Data, first_class: Path) -> None:
    for image in first_class.iterdir():
        image.write_bytes(image.read_bytes()[:keep])
    split = splits.open_split(imagenet, "test", tiny.raw)
    assert len(split) == 990  # opening one decodes none
    error = refusal(lambda: split[split.labels.tolist().index(0)])
    assert error.cause.startswith(f"imagenet: {first_class}/ILSVRC2012_val_")
    assert "is no image that can be read" in error.cause
