"""Which network a command trains or prunes, and what is on the shelf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from invoke import Context, Exit

import tasks
from dlas import supplies, training
from dlas.datasets import catalog
from dlas.errors import UsageError
from dlas.models import recipe as recipes


def test_a_dataset_brings_its_sweep_and_the_sweep_its_recipe() -> None:
    spec, recipe = training.choose("", "resnet18", "cifar10", "")
    assert (spec.factory, spec.input_shape) == ("dlas.models.resnet:resnet18", (1, 3, 32, 32))
    assert (recipe.name, recipe.epochs) == ("paper", 200)
    spec, recipe = training.choose("", "resnet18_w16", "digits", "")
    assert (dict(spec.arguments), recipe.name) == ({"width": 16}, "digits")
    assert training.choose("digits", "vgg16", "digits", "paper")[1].name == "paper"


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (
            "resnet18",
            "cifar",
            "unknown dataset 'cifar', known are cifar10, digits, imagenet; did you mean cifar10?",
        ),
        ("resnet50", "imagenet", "imagenet has no training images here; train on one of cifar10, digits"),
        ("resnet50", "digits", "resnet50 has no definition for digits, only for imagenet; exclude it, or"),
        ("resnet19", "digits", "unknown model 'resnet19', known are resnet18, "),
    ],
)
def test_what_cannot_be_trained_is_refused(model: str, dataset: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        training.choose("", model, dataset, "")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("sweep", "technique", "up_to", "message"),
    [
        ("", "weigth", 0, "unknown technique 'weigth'; did you mean weight?"),
        ("", "filter", 0, "unknown technique 'filter'; give one of weight, channel"),
        ("", "weight", 90, "model resnet18_w16 has no trained weights to prune; recipe digits"),
        ("", "channel", 0, "model resnet18_w16 has no trained weights to prune; recipe digits"),
        ("", "weight", 85, "recipe digits_finetune"),
        ("smoke", "weight", 0, "unknown model 'resnet18_w16'"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    tmp_path: Path, sweep: str, technique: str, up_to: int, message: str
) -> None:
    data = catalog.locate("digits", catalog.folders("", tmp_path))
    with pytest.raises(UsageError) as caught:
        training.prune(sweep, "resnet18_w16", "digits", technique, up_to, data, tmp_path, {"devices": "1"})
    assert str(caught.value).startswith(message)


SWEEP = """
description = "a test"
[axes]
dataset = ["digits"]
model = ["mine"]
compression = ["dense"]
precision = ["fp32"]
format = ["dense"]
algorithm = ["direct"]
tuning = ["scheduled"]
[models.mine]
factory = "tests.networks:raising"
input_shape = [1, 3, 32, 32]
[training.digits]
recipe = "short.toml"
train = false
finetuning = "digits_finetune"
"""


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("train", "no weights today"),
        ("prune", "model mine has no trained weights to prune; recipe short has not trained it"),
    ],
)
def test_a_command_trains_what_the_sweep_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, message: str
) -> None:
    table = recipes.to_table(recipes.load("digits"))
    (tmp_path / "short.toml").write_text("\n".join(f"{key} = {json.dumps(table[key])}" for key in table))
    (tmp_path / "own.toml").write_text(SWEEP)
    monkeypatch.setattr(tasks, "ARTIFACTS", tmp_path)
    with pytest.raises(Exit, match=message):
        getattr(tasks, verb)(
            Context(), model="mine", dataset="digits", sweep=str(tmp_path / "own.toml"), devices="1"
        )


def test_supplies_say_what_is_there_and_how_to_get_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    lines = dict(supplies.status(catalog.folders("", tmp_path)))
    assert set(lines) == {*catalog.DATASETS, "densenet161", "efficientnetb0", "resnet50", "mobilenetv2"}
    assert "in scikit-learn, sha256" in lines["digits"]
    assert "`invoke data --fetch cifar10`" in lines["cifar10"]
    assert str(tmp_path / "torch/hub/checkpoints/resnet50-0676ba61.pth") in lines["resnet50"]
    assert "`invoke data --fetch resnet50`" in lines["resnet50"]
    with pytest.raises(UsageError, match=r"cannot fetch 'resnet51', only cifar10, .*; did you mean resnet50"):
        supplies.fetch("resnet51", {}, print)
