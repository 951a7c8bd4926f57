"""Which network a command trains, and what is on the shelf."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlas import supplies, training
from dlas.datasets import catalog
from dlas.errors import UsageError


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
