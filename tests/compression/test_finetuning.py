"""A recipe for fine-tuning says to which levels, and what is trained at each."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.compression import finetuning as finetunings
from dlas.compression.finetuning import Finetuning, digest, levels, load, steps
from dlas.errors import UsageError
from dlas.models import recipe as recipes

PAPER = load("paper_finetune")
SHIPPED = ("paper_finetune", "imagenet_finetune", "digits_finetune")


def write(folder: Path, old: str, new: str) -> str:
    """A copy of paper_finetune.toml with one change."""
    text = (recipes.FOLDER / "paper_finetune.toml").read_text()
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(
    ("name", "epochs", "rate", "schedule"),
    [("paper_finetune", 210, 0.05, "onecycle"), ("imagenet_finetune", 140, 0.001, "cosine")],
)
def test_the_papers_are_the_papers(name: str, epochs: int, rate: float, schedule: str) -> None:
    found = load(name)
    recipe = found.recipe
    assert (recipe.name, recipe.epochs, recipe.learning_rate, recipe.schedule) == (
        name,
        epochs,
        rate,
        schedule,
    )
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)
    assert found.weight_levels == (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    assert found.channel_levels == (*(n / 100 for n in range(5, 100, 5)), 0.99)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("technique", ["weight", "channel"])
def test_the_epochs_are_shared_evenly(name: str, technique: str) -> None:
    found = load(name)
    taken = steps(found, technique)
    assert tuple(level for level, _ in taken) == levels(found, technique)
    epochs = [recipe.epochs for _, recipe in taken]
    assert sum(epochs) == found.recipe.epochs
    assert max(epochs) - min(epochs) <= 1
    assert min(epochs) >= 1
    for i in range(len(epochs)):  # spread: any beginning has its share
        assert abs(sum(epochs[:i]) - i * found.recipe.epochs / len(epochs)) < 1
    same = [replace(recipe, epochs=1, seed=0) for _, recipe in taken]
    assert set(same) == {replace(found.recipe, epochs=1, seed=0)}
    assert len({recipe.seed for _, recipe in taken}) == len(taken)


def test_ten_and_eleven_take_turns() -> None:
    epochs = [recipe.epochs for _, recipe in steps(PAPER, "channel")]
    assert epochs == [10, 11] * 10


def test_seeds_stay_what_numpy_takes() -> None:
    last = replace(PAPER, recipe=replace(PAPER.recipe, seed=2**32 - 1))
    assert [recipe.seed for _, recipe in steps(last, "weight")][:2] == [2**32 - 1, 0]


def test_what_is_no_technique_is_a_mistake_in_the_program() -> None:
    with pytest.raises(ValueError, match="'dense' is none of"):
        levels(PAPER, "dense")


WEIGHTS = "weight_levels = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (WEIGHTS, "weight_levels = []", r"weight_levels is \[\], allowed is a list of shares"),
        (WEIGHTS, "weight_levels = 0.5", "weight_levels is 0.5, allowed is a list"),
        (WEIGHTS, "weight_levels = [0.0, 0.5]", "where 0.0 is no share of whole per cents from 0.01 to 0.99"),
        (WEIGHTS, "weight_levels = [0.5, 1.0]", "where 1.0 is no share"),
        (WEIGHTS, "weight_levels = [0.5, nan]", "where nan is no share"),
        (WEIGHTS, "weight_levels = [0.5, inf]", "where inf is no share"),
        (WEIGHTS, "weight_levels = [50]", "where 50 is no share"),
        (WEIGHTS, "weight_levels = ['0.5']", "where '0.5' is no share"),
        (WEIGHTS, "weight_levels = [0.505]", "where 0.505 is no share of whole per cents"),
        (WEIGHTS, "weight_levels = [0.6, 0.5]", "allowed are levels that rise"),
        (WEIGHTS, "weight_levels = [0.5, 0.5]", "allowed are levels that rise"),
        (WEIGHTS, "", "weight_levels is missing"),
        ("epochs = 210", "epochs = 19", "channel_levels is .*, more levels than its 19 epochs"),
        ("epochs = 210", "epochs = 0", "epochs is 0, allowed is a whole number"),
        ("momentum =", "momentun =", "unknown key 'momentun'.*; did you mean momentum"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(write(tmp_path, old, new))
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


def test_the_whole_numbers_of_per_cents_are_levels(tmp_path: Path) -> None:
    every = [n / 100 for n in range(1, 100)]
    assert load(write(tmp_path, WEIGHTS, f"weight_levels = {every}")).weight_levels == tuple(every)


def test_the_other_kind_of_recipe_is_refused() -> None:
    with pytest.raises(
        UsageError,
        match=r"^dlas/recipes/paper.toml: has no levels to prune to; give a recipe that fine-tunes, as di",
    ):
        load("paper")
    with pytest.raises(UsageError, match="known are digits_finetune, imagenet_finetune, paper_finetune; did"):
        load("papr_finetune")


def test_the_digest_is_of_what_a_technique_does() -> None:
    other = replace(PAPER, weight_levels=(0.5,))
    renamed = replace(PAPER, recipe=replace(PAPER.recipe, name="mine"))
    slower = replace(PAPER, recipe=replace(PAPER.recipe, learning_rate=0.01))
    for technique, differs in (("weight", True), ("channel", False), ("", True)):
        assert (digest(other, technique) != digest(PAPER, technique)) == differs
        assert digest(renamed, technique) == digest(PAPER, technique)
        assert digest(slower, technique) != digest(PAPER, technique)
    swapped = Finetuning(PAPER.recipe, PAPER.channel_levels, PAPER.weight_levels)
    assert digest(swapped) != digest(PAPER)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from dlas.compression import finetuning, levels; finetuning.load('digits_finetune'); "
        "print({'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
    assert finetunings.percent(0.29) == 29
