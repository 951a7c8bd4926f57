"""Training on few digits, with small networks that are hard to repeat: for tests, in this process or another.

    python -m tests.models.few_digits CHECKPOINTS [KEY=VALUE ...]

trains `SPEC`, prints a line for each epoch, and at last the sha256 of the weights. Keys: epochs, and
those of `train.Machine`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from dlas.datasets.catalog import locate
from dlas.models import train as training
from dlas.models.recipe import Recipe
from dlas.values import ModelSpec

TRAINED, WATCHED = 71, 37  # images; neither is a multiple of a batch or of two devices
SPEC = ModelSpec("few", "tests.models.few_digits:network", (1, 3, 32, 32))
DATA = locate("digits", {})
RECIPE = Recipe(
    "few", "for tests", 3, 16, 0.05, 0.9, 5e-4, "onecycle", crop_padding=4, flip=True, seed=1, threads=1
)
CPU = training.Machine(accelerator="cpu", devices="1")


def network(classes: int = 10) -> nn.Module:
    """Batch norm and dropout: state beside the weights, and random numbers beside those of the data."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, classes),
    )


def open_few(*arguments: Any) -> Any:
    splits = ALL(*arguments)
    return replace(
        splits,
        train=Subset(splits.train, range(TRAINED)),
        val=Subset(splits.val, range(WATCHED)),
        test=Subset(splits.test, range(WATCHED)),
    )


ALL = training.open_splits

if __name__ == "__main__":
    torch.set_num_threads(1)
    training.open_splits = open_few
    changes = dict(word.split("=") for word in sys.argv[2:])
    recipe = replace(RECIPE, epochs=int(changes.get("epochs", RECIPE.epochs)))
    machine = replace(CPU, **{key: changes[key] for key in changes if key != "epochs"})
    weights = training.train(SPEC, DATA, recipe, Path(sys.argv[1]), machine, print)
    print(weights.sha256)
