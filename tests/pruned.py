"""A sweep of a pruned network, and levels of it as training leaves them on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dlas import cache, sweep
from dlas.compression import finetuning, levels
from dlas.datasets import catalog
from dlas.hardware import targets
from dlas.models import checkpoint, weights
from dlas.values import ModelSpec

HOW = finetuning.load("digits_finetune")
N = 200

SWEEP = """
description = "pruned digits"
[axes]
model = ["mine"]
dataset = ["digits"]
compression = ["dense", "weight@elbow", "weight90", "channel@elbow", "channel@elbow_shrunk"]
precision = ["fp32"]
format = ["dense"]
algorithm = ["direct", "gemm"]
tuning = ["scheduled"]
[models.mine]
factory = "resnet18"
arguments = { width = 4 }
weights = "mine.pt"
[training.digits]
recipe = "digits"
train = true
finetuning = "digits_finetune"
[elbow]
max_drop_fraction = 0.02
"""


def plan(folder: Path, text: str = SWEEP) -> tuple[sweep.Planned, ...]:
    """The cells of a sweep like the one above, whose file and weights lie in this folder."""
    (folder / "mine.pt").write_bytes(b"the dense network")
    path = folder / "pruned.toml"
    path.write_text(text)
    return sweep.expand(sweep.load(str(path)), [targets.load("x86")])


def digits_sha256() -> str:
    return catalog.locate("digits", catalog.folders("", Path())).sha256


def write_levels(
    spec: ModelSpec, technique: str, right: Sequence[int], checkpoints: Path, recipe: str = ""
) -> None:
    """Put finished levels on disk that are right on so many of N images, the dense one first.

    recipe: of the dense network, empty where its weights are the user's.
    """
    base = last = weights.find(spec, "digits", recipe, "", checkpoints)
    parent = levels.folder(spec, "digits", base, HOW, technique, checkpoints)
    there = (0.0, *finetuning.levels(HOW, technique))
    for level, count in zip(there, right, strict=False):
        folder = levels.level_folder(parent, level, last)
        folder.mkdir(parents=True)
        (folder / checkpoint.WEIGHTS).write_bytes(f"{technique} at {level}".encode())
        sha256 = cache.hash_file(folder / checkpoint.WEIGHTS)
        manifest = levels.Level(
            key=levels.key(spec, "digits", base, HOW, technique),
            sha256=sha256,
            model=checkpoint.describe(spec),
            dataset="digits",
            data_sha256=digits_sha256(),
            recipe=HOW.recipe,
            val_top1_fraction=count / N,
            val_n=N,
            test_top1_fraction=count / N,
            test_n=N,
            seconds=1.5,
            versions={},
            finished_at=checkpoint.now(),
            technique=technique,
            level_fraction=level,
            pruned_fraction=level,
        )
        checkpoint.write(folder, manifest)
        last = last if level == 0 else replace(last, sha256=sha256)
