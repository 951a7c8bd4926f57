from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.datasets import catalog
from dlas.errors import DataError, UsageError
from dlas.values import Data
from tests.datasets import tiny


def located(name: str, folder: Path) -> Data:
    return catalog.locate(name, {name: folder})


def refused(name: str, folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        located(name, folder)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def copied(cifar10: Data, tmp_path: Path) -> Path:
    """A copy of the CIFAR files to spoil."""
    assert cifar10.path is not None
    return Path(shutil.copytree(cifar10.path, tmp_path / "copy"))


def test_the_known_datasets() -> None:
    shapes = {name: (known.input_shape, known.classes) for name, known in catalog.DATASETS.items()}
    assert shapes == {
        "cifar10": ((1, 3, 32, 32), 10),
        "digits": ((1, 3, 32, 32), 10),
        "imagenet": ((1, 3, 224, 224), 1000),
    }
    assert all(known.name == name and known.instructions for name, known in catalog.DATASETS.items())


def test_the_catalog_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from dlas.datasets import catalog;"
        "catalog.status(catalog.folders('', Path('nowhere')));"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(answer.stdout.split())
    assert "dlas" in imported
    assert imported.isdisjoint({"numpy", "torch", "torchvision", "sklearn", "PIL"})


def test_folders_are_below_the_root_unless_given(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    names = {name: root / name for name in catalog.DATASETS}
    assert catalog.folders("", root) == names
    (tmp_path / "a=b").mkdir()
    given = f" cifar10={tmp_path}/a=b, imagenet={tmp_path},"
    assert catalog.folders(given, root) == names | {"cifar10": tmp_path / "a=b", "imagenet": tmp_path}


def test_a_given_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.folders("cifar10=here", tmp_path)["cifar10"] == tmp_path / "here"
    assert catalog.folders("cifar10=~/here", tmp_path)["cifar10"] == tmp_path / "here"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("cifar=/", r"--data: unknown dataset 'cifar', known are .*, imagenet; did you mean cifar10\?"),
        ("mnist_of_old=/", "--data: unknown dataset 'mnist_of_old', .*; give one of them"),
        ("/somewhere", "--data '/somewhere' is not NAME=PATH; write it as in --data cifar10=PATH"),
        ("cifar10=", "--data 'cifar10=' is not NAME=PATH; .*"),
        ("cifar10=/no/such", "--data cifar10: /no/such does not exist; give the folder that .*"),
        ("cifar10=~no_such_user/x", "--data cifar10: .*/~no_such_user/x does not exist; .*"),
        ("cifar10={file}", "--data cifar10: .*/file is no folder; .*"),
        ("cifar10=/,cifar10=/", "--data names cifar10 twice; give it one folder"),
        ("digits=/", "--data: digits comes with scikit-learn and has no folder; leave it out"),
    ],
)  # fmt: skip
def test_an_option_that_says_no_folders(option: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"^{message}$"):
        catalog.folders(option.format(file=tmp_path / "file"), tmp_path)


def test_an_unknown_dataset() -> None:
    with pytest.raises(
        DataError, match=r"^unknown dataset 'imagnet', known are .*; did you mean imagenet\?$"
    ):
        catalog.locate("imagnet", {})


def test_status_is_a_line_for_each(cifar10: Data, digits: Data, tmp_path: Path) -> None:
    assert cifar10.path is not None
    lines = catalog.status({"cifar10": cifar10.path, "imagenet": tmp_path / "gone"})
    assert lines == [
        ("cifar10", f"{cifar10.path}, sha256 {cifar10.sha256[:12]}"),
        ("digits", f"in scikit-learn, sha256 {digits.sha256[:12]}"),
        ("imagenet", str(refused("imagenet", tmp_path / "gone"))),
    ]


def test_the_published_files_would_be_read() -> None:
    """TorchVision's hash of batches.meta is that of the one written here: the format is the real one."""
    from torchvision.datasets import CIFAR10

    assert hashlib.md5(tiny.published_meta()).hexdigest() == CIFAR10.meta["md5"]
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    assert (*names, CIFAR10.meta["filename"]) == catalog.CIFAR10_FILES
    assert CIFAR10.base_folder == catalog.CIFAR10_FOLDER


def test_cifar10_is_found_in_its_folder_or_the_one_above(cifar10: Data, copied: Path) -> None:
    assert located("cifar10", copied) == replace(cifar10, path=copied)
    assert cifar10.path is not None
    assert located("cifar10", cifar10.path.parent) == cifar10


@pytest.mark.parametrize("name", catalog.CIFAR10_FILES)
def test_the_hash_of_cifar10_covers_each_file(name: str, cifar10: Data, copied: Path) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    assert located("cifar10", copied).sha256 != cifar10.sha256


def test_cifar10_that_is_not_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        error = refused("cifar10", folder)
        assert error.cause == f"cifar10 is not there: looked in {folder} and {folder}/cifar-10-batches-py"
        assert error.next_step == catalog.DATASETS["cifar10"].instructions
        assert "invoke data --fetch cifar10" in error.next_step
        assert "--data cifar10=PATH" in error.next_step


def test_cifar10_with_files_missing(copied: Path) -> None:
    (copied / "data_batch_3").unlink()
    (copied / "batches.meta").unlink()
    (copied / "batches.meta").mkdir()
    error = refused("cifar10", copied)
    assert error.cause == f"cifar10 is incomplete: {copied} lacks data_batch_3, batches.meta"
    assert error.next_step.startswith(f"remove {copied}, then get it with")


@pytest.mark.parametrize("keep", [0, 1000])
def test_cifar10_with_a_file_cut_short(keep: int, copied: Path) -> None:
    path = copied / "data_batch_4"
    path.write_bytes(path.read_bytes()[:keep])
    assert refused("cifar10", copied).cause == f"cifar10 is damaged: {path} is no whole pickle file"


def test_imagenet_is_found_in_its_folder_or_the_one_above(imagenet: Data, tmp_path: Path) -> None:
    assert imagenet.path is not None
    assert imagenet.path.name == "val"
    assert located("imagenet", imagenet.path) == imagenet
    (tmp_path / "link").symlink_to(imagenet.path)
    assert located("imagenet", tmp_path / "link") == replace(imagenet, path=tmp_path / "link")


def test_the_hash_of_imagenet_covers_names_and_sizes(imagenet: Data, first_class: Path) -> None:
    root = first_class.parent
    (first_class / "notes.txt").touch()
    assert located("imagenet", root).sha256 == imagenet.sha256
    image = min(first_class.iterdir())
    with image.open("ab") as file:
        file.write(b"0")
    sized = located("imagenet", root).sha256
    image.rename(first_class / "renamed.JPEG")
    named = located("imagenet", root).sha256
    (first_class / "deeper").mkdir()
    (first_class / "renamed.JPEG").rename(first_class / "deeper" / "renamed.JPEG")
    moved = located("imagenet", root).sha256
    (first_class / "deeper" / "renamed.JPEG").unlink()
    assert len({imagenet.sha256, sized, named, moved, located("imagenet", root).sha256}) == 5


def test_the_hash_of_imagenet_is_of_no_file_system(imagenet: Data, backwards: Callable[[], None]) -> None:
    assert imagenet.path is not None
    listed = [entry.name for entry in os.scandir(imagenet.path)]
    backwards()
    assert [entry.name for entry in os.scandir(imagenet.path)] == listed[::-1]
    assert located("imagenet", imagenet.path) == imagenet


def test_images_are_what_torchvision_takes_for_one() -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert catalog.IMAGE_SUFFIXES == IMG_EXTENSIONS


def test_imagenet_that_is_not_there(tmp_path: Path) -> None:
    error = refused("imagenet", tmp_path / "gone")
    assert error.cause == f"imagenet is not there: looked in {tmp_path}/gone and {tmp_path}/gone/val"
    assert "register at https://www.image-net.org" in error.next_step
    assert "--data imagenet=PATH" in error.next_step


@pytest.mark.parametrize("change", [-1, 1])
def test_imagenet_needs_all_its_classes(change: int, first_class: Path) -> None:
    if change < 0:
        shutil.rmtree(first_class)
    else:
        (first_class.parent / "n00000001").mkdir()
    error = refused("imagenet", first_class.parent)
    assert error.cause == (
        f"imagenet: {first_class.parent} has {1000 + change} class folders and needs all 1000: "
        "labels are positions in their sorted list"
    )


def test_imagenet_needs_folders_of_its_classes(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").touch()
    assert "has 0 class folders" in refused("imagenet", tmp_path).cause


def test_imagenet_needs_the_names_that_give_the_order(first_class: Path) -> None:
    other = first_class.rename(first_class.parent / "tench")
    error = refused("imagenet", first_class.parent)
    assert (
        error.cause == f"imagenet: {other} is no WordNet id such as n01440764, whose order gives the labels"
    )


def test_imagenet_with_an_empty_class(first_class: Path) -> None:
    for image in first_class.iterdir():
        image.rename(image.with_suffix(".txt"))
    assert refused("imagenet", first_class.parent).cause == f"imagenet: {first_class} holds no image"


def test_imagenet_with_an_image_that_leads_nowhere(first_class: Path) -> None:
    link = first_class / "ILSVRC2012_val_99999999.JPEG"
    link.symlink_to("nowhere")
    error = refused("imagenet", first_class.parent)
    assert error.cause == f"{link} cannot be read: No such file or directory"


def test_digits_are_the_file_of_scikit_learn(digits: Data) -> None:
    import sklearn

    path = Path(sklearn.__file__).parent / "datasets/data/digits.csv.gz"
    assert digits == Data("digits", None, hashlib.sha256(path.read_bytes()).hexdigest())


def test_digits_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if "_Editable" not in repr(finder)]
    )
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    error = refused("digits", tmp_path)
    assert error.cause == "digits are not there: scikit-learn is not installed in this Python"
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn/__init__.py").touch()
    error = refused("digits", tmp_path)
    file = tmp_path / "sklearn/datasets/data/digits.csv.gz"
    assert error.cause == f"digits are not there: scikit-learn lacks {file}"
    assert "install scikit-learn" in error.next_step
    file.parent.mkdir(parents=True)
    file.symlink_to("/proc/self/mem")  # its first byte cannot be read
    assert refused("digits", tmp_path).cause == f"{file}: Input/output error"
