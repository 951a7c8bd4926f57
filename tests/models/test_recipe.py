"""A recipe says how a network is trained, or why it cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlas import tomlfile
from dlas.errors import UsageError
from dlas.models import recipe as recipes
from dlas.models.recipe import Recipe

PAPER = recipes.load("paper")


def write(folder: Path, old: str = "", new: str = "", name: str = "mine.toml") -> str:
    """A copy of paper.toml with one change."""
    text = (recipes.FOLDER / "paper.toml").read_text()
    assert old in text
    path = folder / name
    path.write_text(text.replace(old, new))
    return str(path)


def test_the_papers_recipe_is_the_papers() -> None:
    assert (
        Recipe(
            name="paper",
            description=PAPER.description,
            epochs=200,
            batch_size=128,
            learning_rate=0.05,
            momentum=0.9,
            weight_decay=0.0005,
            schedule="onecycle",
            crop_padding=4,
            flip=True,
            seed=0,
            threads=0,
        )
        == PAPER
    )


def test_every_shipped_recipe_loads_and_digits_are_not_mirrored() -> None:
    names = {name for name in tomlfile.shipped(recipes.FOLDER) if not name.endswith("_finetune")}
    assert names >= {"paper", "digits"}
    assert {recipes.load(name).name for name in names} == names
    assert not recipes.load("digits").flip


def test_a_file_of_the_users_is_read_with_whole_numbers_for_real_ones(tmp_path: Path) -> None:
    mine = recipes.load(write(tmp_path, "momentum = 0.9", "momentum = 0"))
    assert mine == replace(PAPER, name="mine", momentum=0.0)
    assert type(mine.momentum) is float


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 200", "epochs = 0", "epochs is 0, allowed is a whole number from 1 to 100000"),
        ("epochs = 200", "epochs = 1.5", "epochs is 1.5, allowed is a whole"),
        ("epochs = 200", "epochs = true", "epochs is True, allowed is a whole"),
        ("batch_size = 128", "batch_size = 0", "batch_size is 0, allowed"),
        ("batch_size = 128", "batch_size = '8'", "batch_size is '8', allowed"),
        ("learning_rate = 5e-2", "learning_rate = 0", "learning_rate is 0, allowed is a number from 1e-09"),
        ("learning_rate = 5e-2", "learning_rate = nan", "learning_rate is nan, allowed"),
        ("learning_rate = 5e-2", "learning_rate = inf", "learning_rate is inf, allowed"),
        ("learning_rate = 5e-2", "learning_rate = true", "learning_rate is True, allowed"),
        ("momentum = 0.9", "momentum = 1.0", "momentum is 1.0, allowed is a number from 0 to 0.9999"),
        ("weight_decay = 5e-4", "weight_decay = -0.1", "weight_decay is -0.1, allowed"),
        ("crop_padding = 4", "crop_padding = -1", "crop_padding is -1, allowed"),
        ("flip = true", "flip = 1", "flip is 1, allowed is true or false"),
        ('"onecycle"', '"step"', "schedule is 'step', allowed is onecycle or cosine"),
        ("seed = 0", "seed = -1", "seed is -1, allowed"),
        ("seed = 0", "seed = 4294967296", "seed is 4294967296, allowed"),
        ("momentum =", "momentun =", "unknown key 'momentun'"),
        ("seed = 0", "", "seed is missing"),
        ("seed = 0", "seed =", "not TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        recipes.load(write(tmp_path, old, new))
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


def test_a_description_must_be_a_string(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="description is 3, allowed is a string"):
        recipes.load(write(tmp_path, f'"{PAPER.description}"', "3"))


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'papper', known are digits, paper; did you mean"):
        recipes.load("papper")
    with pytest.raises(UsageError, match="no such file"):
        recipes.load(str(tmp_path / "absent.toml"))
    with pytest.raises(UsageError, match="names the recipe 'My-own'"):
        recipes.load(write(tmp_path, name="My-own.toml"))


def test_a_recipe_for_fine_tuning_is_none_to_train_with(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"^dlas/recipes/digits_finetune.toml: has levels, so it trains pruned networks on; give a "
        r"recipe that trains from scratch, as digits, paper$",
    ):
        recipes.load("digits_finetune")
    with pytest.raises(UsageError, match=r"mine.toml: has levels"):
        recipes.load(write(tmp_path, "seed = 0", "seed = 0\nweight_levels = [0.5]"))


def test_the_digest_is_of_all_that_trains_and_of_nothing_else() -> None:
    own = recipes.digest(PAPER)
    assert recipes.digest(replace(PAPER, name="other", description="as well")) == own
    changes = {
        "epochs": 1,
        "batch_size": 1,
        "learning_rate": 0.1,
        "momentum": 0.5,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "crop_padding": 0,
        "flip": False,
        "seed": 1,
        "threads": 1,
    }
    assert {*changes, "description"} == set(recipes.KEYS)
    digests = {recipes.digest(replace(PAPER, **{key: value})) for key, value in changes.items()}
    assert len(digests | {own}) == len(changes) + 1


def test_a_table_gives_the_recipe_back() -> None:
    assert recipes.from_table("paper", "here:", recipes.to_table(PAPER)) == PAPER
    with pytest.raises(UsageError, match="here: epochs is None"):
        recipes.from_table("paper", "here:", recipes.to_table(PAPER) | {"epochs": None})
