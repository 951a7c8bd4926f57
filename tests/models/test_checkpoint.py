"""A checkpoint is found by what was trained, and a damaged one says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.errors import StorageError, TrainingError
from dlas.models import checkpoint
from dlas.models import recipe as recipes
from dlas.values import ModelSpec

SPEC = ModelSpec("mine", "own_net:net", (1, 3, 32, 32), (("width", 8),))
RECIPE = recipes.load("digits")


def manifest(
    spec: ModelSpec = SPEC, data_sha256: str = "d" * 64, finished_at: str = "2026-01-01T00:00:00.000000+00:00"
) -> checkpoint.Manifest:
    return checkpoint.Manifest(
        key=checkpoint.key(spec, "digits", RECIPE),
        sha256="0" * 64,
        model=checkpoint.describe(spec),
        dataset="digits",
        data_sha256=data_sha256,
        recipe=RECIPE,
        val_top1_fraction=0.5,
        val_n=2,
        test_top1_fraction=0.25,
        test_n=4,
        seconds=3.5,
        versions={"torch": "0"},
        finished_at=finished_at,
    )


def place(root: Path, what: checkpoint.Manifest) -> Path:
    folder = checkpoint.folder(root, SPEC, "digits", RECIPE, what.data_sha256)
    checkpoint.write(folder, what)
    return folder


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = place(tmp_path, manifest())
    assert checkpoint.read(folder) == manifest()
    assert folder.parent == tmp_path / "digits" / "mine"
    assert folder.name.startswith("digits-")
    assert folder.name.endswith("-" + "d" * 12)


def test_the_key_is_of_what_is_trained_and_not_of_its_names() -> None:
    own = checkpoint.key(SPEC, "digits", RECIPE)
    assert checkpoint.key(replace(SPEC, name="other"), "digits", replace(RECIPE, name="other")) == own
    others = {
        checkpoint.key(replace(SPEC, factory="own_net:other"), "digits", RECIPE),
        checkpoint.key(replace(SPEC, arguments=()), "digits", RECIPE),
        checkpoint.key(replace(SPEC, input_shape=(1, 3, 28, 28)), "digits", RECIPE),
        checkpoint.key(SPEC, "cifar10", RECIPE),
        checkpoint.key(SPEC, "digits", replace(RECIPE, epochs=1)),
    }
    assert len(others | {own}) == 6
    twisted = replace(SPEC, arguments=(("b", 1), ("a", 2)))
    straight = replace(SPEC, arguments=(("a", 2), ("b", 1)))
    assert checkpoint.key(twisted, "digits", RECIPE) == checkpoint.key(straight, "digits", RECIPE)


def test_finished_ones_come_newest_first_and_unfinished_ones_not(tmp_path: Path) -> None:
    old = manifest(data_sha256="a" * 64, finished_at="2026-01-01T00:00:00.000000+00:00")
    new = manifest(data_sha256="b" * 64, finished_at="2026-01-02T00:00:00.000000+00:00")
    folders = [place(tmp_path, what) for what in (old, new)]
    unfinished = checkpoint.folder(tmp_path, SPEC, "digits", RECIPE, "c" * 64)
    unfinished.mkdir()
    (unfinished / checkpoint.LAST).touch()
    found = checkpoint.finished(tmp_path, SPEC, "digits", RECIPE)
    assert found == [(folders[1], new), (folders[0], old)]
    assert not checkpoint.finished(tmp_path, SPEC, "digits", replace(RECIPE, epochs=1))
    assert not checkpoint.finished(tmp_path, replace(SPEC, arguments=()), "digits", RECIPE)
    assert not checkpoint.finished(tmp_path, SPEC, "cifar10", RECIPE)


def test_digits_of_a_key_that_happen_to_agree_are_not_enough(tmp_path: Path) -> None:
    place(tmp_path, replace(manifest(), key=manifest().key[:-1] + "x"))
    assert not checkpoint.finished(tmp_path, SPEC, "digits", RECIPE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"sha256"', '"sha"'),
        ('"val_n": 2', '"val_n": "2"'),
        ('"seconds": 3.5', '"seconds": null'),
        ('"epochs"', '"epoch"'),
        ('"schedule": "onecycle"', '"schedule": "step"'),
        ('"recipe": {', '"recipe": 3, "other": {'),
        ("{", ""),
        ("{", "[{"),
        ("{", "\udcff"),
    ],
)
def test_a_damaged_manifest_says_what_to_do(tmp_path: Path, old: str, new: str) -> None:
    path = place(tmp_path, manifest()) / checkpoint.MANIFEST
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode(errors="surrogateescape"))
    with pytest.raises(TrainingError, match=r"manifest.json") as caught:
        checkpoint.finished(tmp_path, SPEC, "digits", RECIPE)
    assert caught.value.next_step == f"remove {path.parent} and train again"
    assert "\n" not in str(caught.value)


def test_a_manifest_without_an_object(tmp_path: Path) -> None:
    path = place(tmp_path, manifest()) / checkpoint.MANIFEST
    path.write_text(json.dumps([1]))
    with pytest.raises(TrainingError, match="cannot be read: TypeError"):
        checkpoint.read(path.parent)
    path.unlink()
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        checkpoint.read(path.parent)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "mine"
    with (
        checkpoint.lock(folder),
        pytest.raises(TrainingError, match="another process trains this network; wait"),
        checkpoint.lock(folder),
    ):
        pass
    with checkpoint.lock(folder):
        assert folder.is_dir()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), checkpoint.lock(tmp_path / "file" / "mine"):
        pass
