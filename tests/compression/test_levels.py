"""Levels are found in rising order without gaps, and nothing stale is ever taken for one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.compression import levels
from dlas.compression.finetuning import Finetuning
from dlas.compression.levels import find
from dlas.errors import TrainingError
from dlas.models import checkpoint
from dlas.models import recipe as recipes
from dlas.values import LevelPoint, ModelSpec, Weights

SPEC = ModelSpec("mine", "own_net:net", (1, 3, 32, 32), (("width", 8),))
BASE = Weights("trained", Path("base.pt"), "b" * 64, "digits", "d" * 64, 7.0)
FINETUNING = Finetuning(replace(recipes.load("digits"), name="tuned"), (0.5, 0.8, 0.9), (0.5, 0.8, 0.9))


def look(
    root: Path, base: Weights = BASE, finetuning: Finetuning = FINETUNING, technique: str = "weight"
) -> tuple[LevelPoint, ...]:
    return find(SPEC, "digits", base, finetuning, technique, root)


def finish(root: Path, level: float, previous: str, seconds: float = 0.0) -> str:
    """A finished level that started from the file with this sha256; returns its own."""
    asked = (SPEC, "digits", BASE, FINETUNING, "weight")
    parent = levels.folder(*asked, root)
    folder = levels.level_folder(parent, level, replace(BASE, sha256=previous))
    content = f"weights {level} {seconds}".encode()
    sha256 = hashlib.sha256(content).hexdigest() if level else BASE.sha256
    manifest = levels.Level(
        key=levels.key(*asked),
        sha256=sha256,
        model=checkpoint.describe(SPEC),
        dataset="digits",
        data_sha256="d" * 64,
        recipe=FINETUNING.recipe,
        val_top1_fraction=1 - level / 2,
        val_n=8,
        test_top1_fraction=1 - level / 4,
        test_n=16,
        seconds=seconds,
        versions={"torch": "0"},
        finished_at=checkpoint.now(),
        technique="weight",
        level_fraction=level,
        pruned_fraction=level + 1e-4,
    )
    checkpoint.write(folder, manifest)
    if level:
        (folder / checkpoint.WEIGHTS).write_bytes(content)
    return sha256


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With all levels but the last."""
    first = finish(tmp_path, 0.5, finish(tmp_path, 0.0, BASE.sha256), seconds=2.5)
    finish(tmp_path, 0.8, first, seconds=4.0)
    return tmp_path


def test_nothing_is_known_before_the_dense_network_is_judged(tmp_path: Path) -> None:
    assert look(tmp_path) == ()
    finish(tmp_path, 0.5, BASE.sha256)
    assert look(tmp_path) == ()


def test_the_levels_are_what_is_said_of_them(root: Path) -> None:
    dense, half, most = look(root)
    assert dense == LevelPoint(0.0, 1e-4, 1.0, 8, 1.0, 16, BASE)
    assert (most.level_fraction, most.pruned_fraction) == (0.8, 0.8001)
    assert (most.val_top1_fraction, most.val_n, most.test_top1_fraction, most.test_n) == (0.6, 8, 0.8, 16)
    found = half.weights
    assert found.path is not None
    assert found == replace(
        BASE, path=found.path, sha256=found.sha256, finetuning="tuned", finetune_seconds=2.5
    )
    assert hashlib.sha256(found.path.read_bytes()).hexdigest() == found.sha256
    assert most.weights.finetune_seconds == 6.5
    finish(root, 0.9, most.weights.sha256, seconds=1.0)
    assert [point.level_fraction for point in look(root)] == [0.0, 0.5, 0.8, 0.9]


def test_after_a_gap_nothing_counts(root: Path) -> None:
    half = look(root)[1].weights.path
    assert half is not None
    (half.parent / checkpoint.MANIFEST).unlink()
    assert [point.level_fraction for point in look(root)] == [0.0]


def test_a_level_that_began_elsewhere_does_not_count(root: Path) -> None:
    finish(root, 0.5, BASE.sha256, seconds=3.0)  # another file
    assert [point.level_fraction for point in look(root)] == [0.0, 0.5]


@pytest.mark.parametrize(
    "changes",
    [
        {"base": replace(BASE, sha256="c" * 64)},
        {"technique": "channel"},
        {"finetuning": replace(FINETUNING, weight_levels=(0.5, 0.8))},
        {"finetuning": replace(FINETUNING, recipe=replace(FINETUNING.recipe, momentum=0.5))},
    ],
)
def test_what_was_made_from_something_else_does_not_count(root: Path, changes: dict[str, object]) -> None:
    assert look(root, **changes) == ()  # type: ignore[arg-type]
    assert len(look(root, finetuning=replace(FINETUNING, channel_levels=(0.1,)))) == 3


def test_a_folder_that_only_begins_alike_does_not_count(root: Path) -> None:
    key = levels.key(SPEC, "digits", BASE, FINETUNING, "weight")
    path = next(root.rglob(f"80-*/{checkpoint.MANIFEST}"))
    path.write_text(path.read_text().replace(key, key[:12] + "0" * 52))
    assert [point.level_fraction for point in look(root)] == [0.0, 0.5]


def damage(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / checkpoint.MANIFEST
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            damage("{", "?"),
            r"manifest.json cannot be read: JSONDecodeError .*; remove .*50-b+ and train again",
        ),
        (damage('"technique"', '"tecnique"'), "cannot be read: KeyError 'technique'"),
        (
            damage('"level_fraction": 0.5', '"level_fraction": "a"'),
            "cannot be read: TypeError level_fraction",
        ),
        (
            lambda folder: (folder / checkpoint.WEIGHTS).write_bytes(b"x"),
            "weights.pt: is not what was trained",
        ),
        (
            lambda folder: (folder / checkpoint.WEIGHTS).unlink(),
            "weights.pt: is missing; remove .* and train a",
        ),
    ],
)
def test_damage_is_an_error(root: Path, break_it: Callable[[Path], object], message: str) -> None:
    break_it(next(root.rglob("50-*")))
    with pytest.raises(TrainingError, match=message) as caught:
        look(root)
    assert "\n" not in str(caught.value)


def test_a_training_from_scratch_does_not_see_levels(root: Path) -> None:
    scratch = replace(FINETUNING.recipe, name="tuned-weight")
    assert checkpoint.finished(root, SPEC, "digits", scratch) == []
    assert checkpoint.finished(root, SPEC, "digits", FINETUNING.recipe) == []
