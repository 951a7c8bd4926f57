"""From images to the accuracy in a row: real training, real data, real runs of small networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlas import pipeline, sweep
from dlas.errors import DeviceError, SweepIncomplete
from dlas.hardware import engine, image, targets
from dlas.models import imagenet, recipe
from dlas.progress import Progress
from dlas.trial import Settings
from dlas.values import Row, Target
from tests import networks
from tests.datasets import tiny
from tests.stored import stored_rows

SWEEP = """
description = "a test"
[axes]
dataset = ["digits"]
model = ["mine"]
compression = [{compression}]
precision = [{precision}]
format = ["dense"]
algorithm = [{algorithm}]
tuning = ["scheduled"]
[training.digits]
recipe = "short.toml"
train = {train}
finetuning = "short_finetune.toml"
[elbow]
max_drop_fraction = 0.99
[models.mine]
factory = "{factory}"
arguments = {arguments}
input_shape = [1, 3, 32, 32]
"""
STAGES = {"train", "import", "lower", "compile", "link", "reference", "ship", "measure", "accuracy"}


@pytest.fixture
def root(tmp_path: Path, artifacts: Path) -> Path:
    """An artifacts root of its own but for the runner."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (artifacts / "runner").mkdir(exist_ok=True)
    (folder / "runner").symlink_to(artifacts / "runner")
    return folder


def write_recipe(path: Path, fields: Mapping[str, object]) -> None:
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items()))


Run = Callable[..., list[Row]]


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Run:
    """Runs a sweep of one network with a recipe of a few epochs; returns its rows."""

    def run_sweep(
        factory: str = "tests.networks:tiny",
        arguments: str = "{}",
        extra: str = "",
        train: bool = True,
        epochs: int = 1,
        compression: str = '"dense"',
        precision: str = '"fp32"',
        algorithm: str = '"direct", "gemm"',
        target: Target | None = None,
        **settings: Any,
    ) -> list[Row]:
        facts = {"factory": factory, "arguments": arguments, "train": str(train).lower()}
        facts |= {"compression": compression, "precision": precision, "algorithm": algorithm}
        path = tmp_path / "trial.toml"
        path.write_text(SWEEP.format(**facts) + extra)
        fields = recipe.to_table(recipe.load("digits")) | {"epochs": epochs, "crop_padding": 0}
        write_recipe(tmp_path / "short.toml", fields)
        levels = {"weight_levels": [0.5, 0.6], "channel_levels": [0.2]}
        write_recipe(tmp_path / "short_finetune.toml", fields | {"epochs": 2} | levels)
        planned = sweep.expand(sweep.load(str(path)), [target or targets.load("x86")])
        chosen = Settings(
            "trial", root, **{"runner": "local", "repeats": 2, "threads": 1, "images": 100, **settings}
        )
        with Progress() as progress:
            rows = pipeline.run_sweep(planned, chosen, progress)
        pipeline.check(rows, root)
        return rows

    return run_sweep


def test_a_sweep_trains_what_it_needs_and_rows_have_the_accuracy(
    run: Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run()
    said = capsys.readouterr().out
    assert said.count("training mine on digits") == 1
    assert "of 360 test images" in said
    for row in rows:
        assert (row.status, row.weights, row.recipe, row.trained) == ("measured", "trained", "short", True)
        assert (row.top1_n, row.top5_fraction, row.accuracy_reason) == (100, None, "")
        assert (row.top1_fraction, row.predictions_differing) == (row.reference_top1_fraction, 0)
        assert set(row.stage_seconds) == STAGES
        assert all(seconds > 0 for seconds in row.stage_seconds.values())
    assert len({row.predictions_sha256 for row in rows}) == 1
    logits = np.load(next(root.glob("reference/*/logits.npy")))
    labels = np.load(next(root.glob("images/*/labels.npy")))
    assert rows[0].top1_fraction == float((logits.argmax(1) == labels).mean())
    assert run() == rows
    assert "training" not in capsys.readouterr().out
    # Trained again from nothing, it is the same network, and its rows still stand.
    shutil.rmtree(root / "checkpoints")
    (again, _) = run()
    assert again.weights_sha256 == rows[0].weights_sha256


@pytest.mark.slow
def test_a_sweep_prunes_what_it_needs_and_rows_have_the_level(
    run: Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compressions = '"weight@elbow", "weight60", "channel20_shrunk"'
    rows = run(compression=compressions, precision='"int8"', algorithm='"gemm"')
    said = capsys.readouterr().out
    assert said.count("training mine on digits") == 1
    assert said.count("pruning mine on digits by weight") == 1
    assert said.count("pruning mine on digits by channel") == 1
    elbow, by_hand, shrunk = rows
    for row in rows:
        assert (row.status, row.weights, row.recipe, row.trained) == ("measured", "trained", "short", True)
        assert (row.finetuning, row.oracle) == ("short_finetune", "onnxruntime")
        assert (row.calibration, row.top1_n) == ("128 images of val", 100)
        assert set(row.stage_seconds) == STAGES | {"finetune", "quantize"}
        assert row.top1_fraction is not None
        assert row.reference_top1_fraction is not None
        assert abs(row.top1_fraction - row.reference_top1_fraction) <= 0.05
    assert (elbow.level_fraction, by_hand.level_fraction, shrunk.level_fraction) == (0.6, 0.6, 0.2)
    assert elbow.artifact_sha256 == by_hand.artifact_sha256
    assert (elbow.weight_sparsity_fraction or 0) >= 0.59  # of 288 weights
    assert (shrunk.weight_sparsity_fraction or 0) < 0.1
    assert len(list((root / "quantized").iterdir())) == 2
    assert run(compression=compressions, precision='"int8"', algorithm='"gemm"') == rows


def test_without_training_the_rows_are_untrained_and_say_so(run: Run) -> None:
    for row in run(train=False):
        assert (row.status, row.weights, row.trained) == ("measured", "untrained", False)
        assert (row.top1_fraction, row.top1_n) == (None, None)
        assert "recipe short has not trained it" in row.accuracy_reason


def test_weights_of_ones_own_are_taken(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(networks.tiny().state_dict(), tmp_path / "mine.pt")
    direct, gemm = run(extra='weights = "mine.pt"\n')
    assert (direct.weights, direct.recipe, direct.top1_n) == ("given", "", 100)
    assert direct.predictions_sha256 == gemm.predictions_sha256
    assert 0 <= (direct.top1_fraction or 0) < 0.5


def test_no_images_no_accuracy(run: Run) -> None:
    (row, _) = run(images=0)
    assert (row.top1_fraction, row.accuracy_reason) == (None, "not asked for")
    (more, _) = run(images=50)
    assert more.top1_n == 50


def test_a_network_that_cannot_be_trained_fails_its_cells(run: Run, root: Path) -> None:
    with pytest.raises(SweepIncomplete, match="2 of 2 cells failed"):
        run(factory="tests.networks:raising")
    rows = stored_rows(root, "trial")
    assert {row.status for row in rows} == {"failed"}
    assert all("no weights today" in row.reason for row in rows)


def test_accuracy_that_fails_keeps_the_times_and_is_tried_again(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            pipeline, "take_accuracy", lambda *_: (_ for _ in ()).throw(DeviceError("gone", "wait"))
        )
        with pytest.raises(SweepIncomplete, match="2 of 2 cells failed"):
            run()
    for row in stored_rows(root, "trial"):
        assert (row.status, row.reason, row.publishable) == ("failed", "gone; wait", False)
        assert len(row.samples_ns) == 2
    assert {row.status for row in run()} == {"measured"}


def test_a_forced_run_that_fails_after_training_loses_nothing(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run()
    shutil.rmtree(root / "checkpoints")
    monkeypatch.setattr(pipeline, "measure", lambda *_: (_ for _ in ()).throw(DeviceError("gone", "wait")))
    with pytest.raises(SweepIncomplete):
        run(force=True)
    assert sorted(stored_rows(root, "trial"), key=lambda row: row.cell) == rows


def test_a_network_of_other_classes_is_timed_and_not_judged(run: Run, tmp_path: Path) -> None:
    torch.save(networks.seven_classes().state_dict(), tmp_path / "mine.pt")
    for row in run("tests.networks:seven_classes", extra='weights = "mine.pt"\n'):
        assert (row.status, row.top1_fraction, len(row.samples_ns)) == ("measured", None, 2)
        assert "its output is [7], digits has 10 classes" in row.accuracy_reason


@pytest.mark.parametrize("name", ["images/*/images.npy", "images/*/labels.npy", "reference/*/logits.npy"])
def test_damaged_images_fail_the_cell(run: Run, root: Path, name: str) -> None:
    run()
    (path,) = root.glob(name)
    data = path.read_bytes()
    path.write_bytes(data[:-8] if "images.npy" in name else data[:-8] + bytes(8))
    with pytest.raises(SweepIncomplete):
        run(repeats=3)
    failed = [row for row in stored_rows(root, "trial") if row.status == "failed"]
    assert len(failed) == 2
    assert all(
        "is damaged" in row.reason and "and run the same command again" in row.reason for row in failed
    )


@pytest.mark.docker
def test_the_container_predicts_the_same(run: Run, root: Path, base: str) -> None:
    target = replace(targets.load("x86"), name="test_accuracy")
    image.build_image(target, root, base, lambda line: None)
    try:
        here, there = run(target=target), run(target=target, runner="docker")
    finally:
        engine.at().remove_image(target.image_tag)
    assert [row.runner for row in there] == ["docker", "docker"]
    assert {row.predictions_sha256 for row in (*here, *there)} == {here[0].predictions_sha256}


@pytest.mark.slow
def test_a_narrow_network_learns_digits_in_a_few_epochs(run: Run) -> None:
    rows = run("resnet18", "{ width = 8 }", epochs=5, images=360)
    for row in rows:
        assert (row.status, row.top1_n) == ("measured", 360)
        assert (row.top1_fraction or 0) > 0.9


IMAGENET = """
description = "a test"
[axes]
dataset = ["imagenet"]
model = ["small"]
compression = ["dense"]
precision = ["fp32"]
format = ["dense"]
algorithm = ["gemm"]
tuning = ["scheduled"]
[models.small]
factory = "mobilenetv2"
input_shape = [1, 3, 64, 64]
weights = "mobilenetv2.pt"
"""


@pytest.mark.slow
def test_a_network_for_imagenet_has_top5(tmp_path: Path, root: Path) -> None:
    torch.manual_seed(3)
    torch.save(imagenet.mobilenetv2().state_dict(), tmp_path / "mobilenetv2.pt")
    tiny.write_imagenet(tmp_path / "val")
    path = tmp_path / "trial.toml"
    path.write_text(IMAGENET)
    planned = sweep.expand(sweep.load(str(path)), [targets.load("x86")])
    settings = Settings(
        "trial", root, "local", threads=2, repeats=2, images=40, folders={"imagenet": tmp_path / "val"}
    )
    with Progress() as progress:
        (row,) = pipeline.run_sweep(planned, settings, progress)
    assert (row.status, row.reason, row.weights) == ("measured", "", "given")
    assert (row.top1_n, row.predictions_differing) == (40, 0)
    assert row.top1_fraction is not None
    assert row.top5_fraction is not None
    assert row.top1_fraction <= row.top5_fraction <= 1
    images = np.load(next(root.glob("images/*/images.npy")))
    assert images.shape == (40, 3, 64, 64)
