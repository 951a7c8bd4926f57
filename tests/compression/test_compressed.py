"""A compression makes the network that it names, and what PyTorch computes is what is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlas.compression import levels
from dlas.compression.compressed import load
from dlas.compression.finetuning import Finetuning
from dlas.compression.prune import prune_channels, prune_weights, pruned_fraction
from dlas.errors import ModelError
from dlas.models import checkpoint, loading
from dlas.models import recipe as recipes
from dlas.models.loading import Model
from dlas.values import Compression, ModelSpec, Weights

SPEC = ModelSpec("small", "dlas.models.resnet:resnet18", (1, 3, 32, 32), (("width", 8),))
UNTRAINED = Weights("untrained")
FINETUNING = Finetuning(replace(recipes.load("digits"), name="tuned"), (0.9,), (0.4,))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_oracle(model: Model) -> None:
    assert not model.module.training
    with torch.no_grad():
        assert np.array_equal(model.module(torch.from_numpy(model.input)).numpy(), model.output)


def level(root: Path, technique: str, level_fraction: float, zeros: float | None = None) -> Weights:
    """As fine-tuning would leave it: a level's file; with another share of zeros if asked for."""
    module = loading.load(SPEC, UNTRAINED).module
    if technique == "weight":
        prune_weights(module, zeros or level_fraction)
    else:
        prune_channels(module, torch.from_numpy(loading.noise(SPEC)), level_fraction)
    asked: Any = (SPEC, "digits", UNTRAINED, FINETUNING, technique)
    folder = levels.level_folder(levels.folder(*asked, root), level_fraction, UNTRAINED)
    folder.mkdir(parents=True)
    path = folder / checkpoint.WEIGHTS
    probe = torch.from_numpy(loading.probe(SPEC, module))
    about = {"model": checkpoint.describe(SPEC)}
    torch.save({"state_dict": module.state_dict(), "probe": probe, "about": about}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"key": levels.key(*asked), "sha256": sha256, "model": checkpoint.describe(SPEC)}
    figures = {"val_top1_fraction": 0.5, "val_n": 2, "test_top1_fraction": 0.5, "test_n": 2, "seconds": 1.0}
    more = {"technique": technique, "level_fraction": level_fraction, "pruned_fraction": 0.5}
    data = {"dataset": "digits", "data_sha256": "", "versions": {}, "finished_at": checkpoint.now()}
    manifest = levels.Level(**facts, **figures, **more, **data, recipe=FINETUNING.recipe)  # type: ignore
    checkpoint.write(folder, manifest)
    return Weights("trained", path, sha256, "digits", finetuning="tuned")


def test_a_dense_network_is_as_it_is() -> None:
    plain, dense = loading.load(SPEC, UNTRAINED), load(SPEC, UNTRAINED, Compression())
    assert np.array_equal(plain.output, dense.output)
    assert pruned_fraction(dense.module) == 0


@pytest.mark.parametrize("level_fraction", [0.5, 0.99])
def test_weights_are_pruned_where_they_are_not_yet(level_fraction: float) -> None:
    plain = loading.load(SPEC, UNTRAINED)
    model = load(SPEC, UNTRAINED, Compression("weight", level_fraction))
    check_oracle(model)
    assert abs(pruned_fraction(model.module) - level_fraction) < 1e-3
    assert np.array_equal(model.input, plain.input)
    assert not np.allclose(model.output, plain.output)
    assert size(model.module) == size(plain.module)
    again = load(SPEC, UNTRAINED, Compression("weight", level_fraction))
    assert np.array_equal(again.output, model.output)


def test_channels_are_zero_or_removed_and_the_output_is_the_same(tmp_path: Path) -> None:
    for weights in (UNTRAINED, level(tmp_path, "channel", 0.4)):
        zero = load(SPEC, weights, Compression("channel", 0.4))
        shrunk = load(SPEC, weights, Compression("channel", 0.4, shrunk=True))
        check_oracle(zero)
        check_oracle(shrunk)
        assert pruned_fraction(zero.module) > 0.3
        assert size(shrunk.module) < 0.8 * size(zero.module)
        assert np.array_equal(shrunk.input, zero.input)
        scale = np.abs(zero.output).max()
        assert np.abs(shrunk.output - zero.output).max() < 1e-4 * scale


def test_what_was_fine_tuned_is_not_pruned_again(tmp_path: Path) -> None:
    weights = level(tmp_path, "weight", 0.9)
    model = load(SPEC, weights, Compression("weight", 0.9))
    check_oracle(model)
    assert weights.path is not None
    state = torch.load(weights.path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())


def test_weights_of_another_level_are_refused(tmp_path: Path) -> None:
    weights = level(tmp_path, "weight", 0.9)
    for other in (Compression("weight", 0.95), Compression("channel", 0.9)):
        with pytest.raises(
            ModelError, match=r"weights.pt has weight level 0.9, wanted is .*; give the weights"
        ):
            load(SPEC, weights, other)
    for i, zeros in enumerate((0.89, 0.91)):
        with pytest.raises(
            ModelError, match=rf"weights.pt has {100 * zeros:.1f}% zeros, wanted is weight level"
        ):
            load(SPEC, level(tmp_path / str(i), "weight", 0.9, zeros), Compression("weight", 0.9))


def test_what_cannot_be_asked_for_is_a_mistake_in_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the elbow is not known yet"):
        load(SPEC, UNTRAINED, Compression("weight", None))
    with pytest.raises(ValueError, match="is pruned, a dense network was asked for"):
        load(SPEC, level(tmp_path, "weight", 0.9), Compression())


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10))


@pytest.mark.parametrize("technique", ["weight", "channel"])
def test_what_cannot_be_pruned_says_which_network(technique: str) -> None:
    spec = ModelSpec("flat", "tests.compression.test_compressed:linear", (1, 3, 2, 2))
    with pytest.raises(ModelError, match=r"^model flat: the network has no convolution to prune; leave it"):
        load(spec, UNTRAINED, Compression(technique, 0.5))


def test_untrained_channels_go_from_all_layers_alike() -> None:
    """Their magnitudes only tell fan-in: by these, the last layers would go, and with them the signal."""
    model = load(SPEC, UNTRAINED, Compression("channel", 0.4, shrunk=True))
    dense = loading.load(SPEC, UNTRAINED).module
    kept = [
        small.weight.shape[0] / conv.weight.shape[0]
        for small, conv in zip(convolutions(model.module), convolutions(dense), strict=True)
    ]
    assert min(kept) > 0.3
    other = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model.module(other), torch.from_numpy(model.output), rtol=1e-2)


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [each for each in module.modules() if isinstance(each, nn.Conv2d)]
