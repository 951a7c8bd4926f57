"""A network is pruned further and further, and is the same in the end whatever happened on the way."""

from __future__ import annotations

import copy
import csv
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlas.compression import levels
from dlas.compression.finetune import finetune
from dlas.compression.finetuning import Finetuning, steps
from dlas.compression.prune import prune_channels, prune_weights
from dlas.errors import DlasError, ModelError, TrainingError, UsageError
from dlas.models import checkpoint, loading
from dlas.models import train as training
from dlas.values import LevelPoint, ModelSpec, Weights
from tests.models.few_digits import CPU, DATA, RECIPE, WATCHED, open_few

SPEC = ModelSpec("small", "dlas.models.resnet:resnet18", (1, 3, 32, 32), (("width", 4),))
FINETUNING = Finetuning(replace(RECIPE, name="tuned", epochs=7), (0.5, 0.8, 0.9), (0.2, 0.4, 0.6))
TECHNIQUES = ("weight", "channel")
Trained = tuple[Path, Weights, dict[str, tuple[LevelPoint, ...]], dict[str, list[str]]]


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "open_splits", open_few)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(few: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Where a network lies that was fine-tuned by both techniques; its dense weights, levels and reports."""
    root = tmp_path_factory.mktemp("whole")
    base = training.train(SPEC, DATA, RECIPE, root, CPU, lambda _: None)
    said: dict[str, list[str]] = {technique: [] for technique in TECHNIQUES}
    points = {
        technique: finetune(
            SPEC, DATA, base, FINETUNING, technique, root, report=said[technique].append, machine=CPU
        )
        for technique in TECHNIQUES
    }
    return root, base, points, said


def tune(
    root: Path, base: Weights, technique: str = "weight", say: Any = lambda _: None, **changes: Any
) -> tuple[LevelPoint, ...]:
    arguments: dict[str, Any] = {"finetuning": FINETUNING, "data": DATA, "spec": SPEC, "machine": CPU}
    arguments |= changes
    return finetune(base=base, technique=technique, checkpoints=root, report=say, **arguments)


def hashes(points: tuple[LevelPoint, ...]) -> list[str]:
    return [point.weights.sha256 for point in points]


def copied(whole: Trained, tmp_path: Path) -> Path:
    """The checkpoints, to be damaged."""
    root = tmp_path / "copy"
    shutil.copytree(whole[0], root)
    return root


def convolutions(module: nn.Module) -> np.ndarray:
    return np.concatenate(
        [m.weight.detach().numpy().ravel() for m in module.modules() if isinstance(m, nn.Conv2d)]
    )


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_levels_rise_from_the_dense_network(whole: Trained, technique: str) -> None:
    root, base, found, said = whole
    points = found[technique]
    taken = steps(FINETUNING, technique)
    assert [point.level_fraction for point in points] == [0.0, *(level for level, _ in taken)]
    assert points == levels.find(SPEC, "digits", base, FINETUNING, technique, root)
    assert points[0].weights == base
    assert points[0].pruned_fraction == 0
    seconds = [point.weights.finetune_seconds for point in points]
    assert seconds == sorted(set(seconds))
    accuracies = {point.level_fraction: f"{point.val_top1_fraction:.1%}" for point in points}
    assert said[technique][0] == f"{technique} 0, val {accuracies[0]}"
    lines = [
        f"{technique} {level:g}, epoch {epoch + 1}/{recipe.epochs}, val "
        for level, recipe in taken
        for epoch in range(recipe.epochs)
    ]
    assert [line[: len(start)] for line, start in zip(said[technique][1:], lines, strict=True)] == lines
    assert said[technique][-1] == lines[-1] + accuracies[taken[-1][0]]
    for point in points[1:]:
        assert point.weights.path is not None
        folder = point.weights.path.parent
        assert (point.weights.origin, point.weights.finetuning) == ("trained", "tuned")
        assert not (folder / checkpoint.LAST).exists()
        with (folder / checkpoint.METRICS).open() as file:
            rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
        assert rates[0] == pytest.approx(RECIPE.learning_rate / 25)  # a cycle of its own
        about = torch.load(point.weights.path, weights_only=True)["about"]
        assert (about["technique"], about["level_fraction"]) == (technique, point.level_fraction)
        assert about["pruned_fraction"] == point.pruned_fraction
    if technique == "weight":
        assert all(abs(point.pruned_fraction - point.level_fraction) < 1e-3 for point in points)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_each_level_has_the_zeros_of_the_network_before_it_pruned_once(
    whole: Trained, technique: str
) -> None:
    points = whole[2][technique]
    for previous, point in pairwise(points):
        pruned = copy.deepcopy(loading.load(SPEC, previous.weights).module)
        if technique == "weight":
            prune_weights(pruned, point.level_fraction)
        else:
            prune_channels(pruned, torch.from_numpy(loading.noise(SPEC)), point.level_fraction)
        tuned = loading.load(SPEC, point.weights).module
        zeros = convolutions(pruned) == 0
        assert zeros.mean() == point.pruned_fraction > previous.pruned_fraction
        assert np.array_equal(convolutions(tuned) == 0, zeros)
        assert (convolutions(tuned)[~zeros] != convolutions(pruned)[~zeros]).mean() > 0.99
        if technique == "channel":  # the batch norms of channels that are gone, too
            for name, value in pruned.named_parameters():
                assert (tuned.get_parameter(name)[value == 0] == 0).all()
        assert not [name for name in tuned.state_dict() if name.endswith(("_orig", "_mask"))]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_accuracies_are_those_of_the_loaded_networks(whole: Trained, technique: str) -> None:
    splits = open_few(SPEC, DATA, FINETUNING.recipe)
    for point in whole[2][technique]:
        module = loading.load(SPEC, point.weights).module
        for images, fraction, n in (
            (splits.val, point.val_top1_fraction, point.val_n),
            (splits.test, point.test_top1_fraction, point.test_n),
        ):
            assert n == WATCHED
            logits = loading.predict(module, np.stack([images[i][0].numpy() for i in range(n)]))
            labels = np.array([images[i][1] for i in range(n)])
            assert fraction == (logits.argmax(1) == labels).sum() / n


def stop_at(start: str, error: Callable[[], None]) -> Callable[[str], None]:
    def say(line: str) -> None:
        if line.startswith(start):
            error()

    return say


def fail() -> None:
    raise RuntimeError("enough")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_what_was_interrupted_ends_as_if_nothing_had_been(
    whole: Trained, tmp_path: Path, technique: str
) -> None:
    base, points = whole[1], whole[2][technique]
    middle, last = (f"{technique} {point.level_fraction:g}, epoch" for point in points[2:])
    with pytest.raises(
        TrainingError, match=rf"training small at {technique} .* failed: RuntimeError: enough"
    ):
        tune(tmp_path, base, technique, stop_at(f"{middle} 2/", fail))
    assert hashes(levels.find(SPEC, "digits", base, FINETUNING, technique, tmp_path)) == hashes(points)[:2]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune(tmp_path, base, technique, stop_at(f"{last} 2/", interrupt))
    finally:
        signal.signal(signal.SIGINT, before)
    lines: list[str] = []
    assert hashes(tune(tmp_path, base, technique, lines.append)) == hashes(points)
    assert 0 < len(lines) < FINETUNING.recipe.epochs
    assert {line.partition(" epoch")[0] for line in lines} == {f"{technique} {points[3].level_fraction:g},"}


def test_a_level_that_ended_before_its_manifest_is_only_finished(
    whole: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write

    def break_off(folder: Path, manifest: Any) -> None:
        if manifest.level_fraction == 0.5:
            raise OSError("the lights went out")
        write(folder, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", break_off)
        with pytest.raises(OSError, match="the lights"):
            tune(tmp_path, whole[1], up_to=0.5)
    lines: list[str] = []
    assert (
        hashes(tune(tmp_path, whole[1], "weight", lines.append, up_to=0.5)) == hashes(whole[2]["weight"])[:2]
    )
    assert not lines


def test_what_is_finished_is_not_done_again(whole: Trained, tmp_path: Path) -> None:
    root, base, found, _ = whole
    lines: list[str] = []
    assert tune(root, base, "weight", lines.append) == found["weight"]
    assert tune(root, base, "weight", lines.append, up_to=0.8) == found["weight"][:3]
    assert not lines
    part = tune(tmp_path, base, "channel", lines.append, up_to=0.2)
    assert hashes(part) == hashes(found["channel"])[:2]
    assert not [line for line in lines if line.startswith("channel 0.4")]


def test_a_level_that_is_removed_is_trained_again_and_those_after_it_still_fit(
    whole: Trained, tmp_path: Path
) -> None:
    root = copied(whole, tmp_path)
    shutil.rmtree(next(root.rglob("tuned-weight-*/80-*")))
    lines: list[str] = []
    assert hashes(tune(root, whole[1], "weight", lines.append)) == hashes(whole[2]["weight"])
    assert {line.partition(" epoch")[0] for line in lines} == {"weight 0.8,"}


def test_damage_and_other_data_are_errors(whole: Trained, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    next(root.rglob(f"tuned-weight-*/80-*/{checkpoint.WEIGHTS}")).write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"weights.pt: is not what was trained; remove .*80-"):
        tune(root, whole[1])
    other = replace(DATA, sha256="0" * 64)
    given = replace(whole[1], origin="given", recipe="", data_sha256="")
    with pytest.raises(TrainingError, match=r"tuned-channel-\w+ was trained on other data than this digits"):
        tune(root, given, "channel", data=other)


NOTHING = Weights("untrained", reason="no recipe")
CASES: list[tuple[dict[str, Any], type[DlasError], str]] = [
    ({"up_to": 0.7}, UsageError, "recipe tuned has no weight level 0.7, it has 0.5, 0.8, 0.9; choose"),
    ({"base": NOTHING}, UsageError, "model small has no trained weights to prune; no recipe"),
    ({"data": replace(DATA, sha256="0" * 64)}, UsageError, "was trained on other data than this digits"),
    ({"machine": replace(CPU, accelerator="tpu")}, UsageError, "no training on this machine"),
    (
        {"spec": replace(SPEC, arguments=(("width", 5),))},
        ModelError,
        "weights.pt does not fit: size mismatch",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "message"), CASES)
def test_what_cannot_be_done_says_why(
    whole: Trained, tmp_path: Path, changes: dict[str, Any], kind: type[DlasError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        tune(tmp_path, **{"base": whole[1], **changes})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(checkpoint.MANIFEST))


def test_pruned_weights_are_no_beginning(whole: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"weights.pt is pruned already; give the dense weights"):
        tune(tmp_path, whole[2]["weight"][1].weights)


def test_a_training_that_diverges_says_where(whole: Trained, tmp_path: Path) -> None:
    steep = replace(FINETUNING, recipe=replace(FINETUNING.recipe, learning_rate=1e3, epochs=30))
    with pytest.raises(
        TrainingError, match=r"^small at weight 0.5 with recipe tuned: the loss is .*; give a"
    ):
        tune(tmp_path, whole[1], finetuning=steep)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def test_what_cannot_be_pruned_says_which_network(tmp_path: Path) -> None:
    spec = ModelSpec("flat", "tests.compression.test_finetune:linear", SPEC.input_shape)
    base = training.train(spec, DATA, replace(RECIPE, epochs=1), tmp_path, CPU, lambda _: None)
    with pytest.raises(
        ModelError, match=r"^model flat: the network has no convolution to prune; leave it dense"
    ):
        tune(tmp_path, base, spec=spec)
