"""Training gives the same network each time, also after a kill, and says why when it cannot."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlas.errors import DlasError, ModelError, TrainingError, UsageError
from dlas.models import checkpoint, loading
from dlas.models import train as training
from dlas.models.learner import Order
from dlas.values import ModelSpec, Weights
from tests.models import few_digits
from tests.models.few_digits import CPU, DATA, RECIPE, SPEC, TRAINED, WATCHED, open_few


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "open_splits", open_few)


def train(root: Path, report: Callable[[str], None] = lambda _: None, **changes: Any) -> Weights:
    arguments: dict[str, Any] = {"spec": SPEC, "data": DATA, "recipe": RECIPE, "machine": CPU}
    return training.train(checkpoints=root, report=report, **{**arguments, **changes})


def folder_of(root: Path, recipe: Any = RECIPE) -> Path:
    return checkpoint.folder(root, SPEC, "digits", recipe, DATA.sha256)


def script(root: Path, *words: str) -> subprocess.Popen[str]:
    """few_digits.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.models.few_digits", str(root), *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Weights]]:
    """Where a training without interruption lies, and what came of it."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "open_splits", open_few)
        yield root, train(root)


def test_a_training_leaves_weights_and_what_is_known_of_them(whole: tuple[Path, Weights]) -> None:
    root, found = whole
    folder = folder_of(root)
    assert found.origin == "trained"
    assert found.path == folder / checkpoint.WEIGHTS
    assert (found.recipe, found.data_sha256) == ("few", DATA.sha256)
    manifest = checkpoint.read(folder)
    assert manifest.recipe == RECIPE
    assert (manifest.sha256, manifest.seconds) == (found.sha256, found.seconds)
    assert manifest.model == checkpoint.describe(SPEC)
    assert set(manifest.versions) == {"torch", "torchvision", "pytorch-lightning"}
    assert not (folder / checkpoint.LAST).exists()
    assert list(folder.glob("events.out.tfevents.*"))
    with (folder / checkpoint.METRICS).open() as file:
        epochs = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in epochs] == [1, 2, 3]
    assert float(epochs[-1]["val_top1_fraction"]) == manifest.val_top1_fraction
    assert float(epochs[-1]["train_loss"]) < float(epochs[0]["train_loss"])
    assert float(epochs[0]["learning_rate"]) == pytest.approx(RECIPE.learning_rate / 25)
    assert sum(float(row["seconds"]) for row in epochs) == pytest.approx(manifest.seconds)
    about = torch.load(folder / checkpoint.WEIGHTS, weights_only=True)["about"]
    assert (
        json.loads((folder / checkpoint.MANIFEST).read_text()).items()
        >= json.loads(json.dumps(about)).items()
    )


def test_its_accuracies_are_those_of_the_loaded_network(whole: tuple[Path, Weights]) -> None:
    root, found = whole
    manifest = checkpoint.read(folder_of(root))
    splits = open_few(SPEC, DATA, RECIPE)
    module = loading.load(SPEC, found).module
    for images, fraction, n in (
        (splits.val, manifest.val_top1_fraction, manifest.val_n),
        (splits.test, manifest.test_top1_fraction, manifest.test_n),
    ):
        assert n == WATCHED
        logits = loading.predict(module, np.stack([images[i][0].numpy() for i in range(n)]))
        labels = np.array([images[i][1] for i in range(n)])
        assert fraction == (logits.argmax(1) == labels).sum() / n
        assert logits.argmax(1).std() > 0


def test_the_same_seed_gives_the_same_file_and_leaves_the_process_alone(
    whole: tuple[Path, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> list[Any]:
        return [
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            signal.getsignal(signal.SIGINT),
            dict(os.environ),
            list(warnings.filters),
        ]

    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    torch.use_deterministic_algorithms(False)
    torch.rand(3)
    before = state()
    lines: list[str] = []
    again = train(tmp_path, lines.append)
    assert again.sha256 == whole[1].sha256
    assert state() == before
    assert [line.partition(",")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[-1].endswith(f"val {checkpoint.read(folder_of(tmp_path)).val_top1_fraction:.1%}")


def test_the_number_of_threads_is_of_the_training_only(tmp_path: Path) -> None:
    seen = []
    before = torch.get_num_threads()
    recipe = replace(RECIPE, epochs=1, threads=before + 1)
    train(tmp_path, lambda _: seen.append(torch.get_num_threads()), recipe=recipe)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_another_seed_or_schedule_gives_another_network(whole: tuple[Path, Weights], tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    files = {
        train(tmp_path, recipe=recipe).sha256
        for recipe in (short, replace(short, seed=2), replace(short, schedule="cosine"))
    }
    assert len(files | {whole[1].sha256}) == 4


def test_the_order_is_another_one_in_each_epoch_and_shared_by_the_devices() -> None:
    def order(epoch: int, rank: int = 0, devices: int = 1, seed: int = 0) -> list[int]:
        sampler = Order(range(20), devices, rank, True, seed)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3) == order(3)
    assert len({tuple(order(epoch)) for epoch in range(3)} | {tuple(order(0, seed=9))}) == 4
    assert sorted(order(3)) == sorted(order(3, 0, 2) + order(3, 1, 2)) == list(range(20))


def test_only_what_is_learned_from_is_changed_at_random() -> None:
    splits = few_digits.ALL(SPEC, DATA, RECIPE)
    assert [len(images) for images in (splits.train, splits.val, splits.test)] == [1077, 360, 360]
    assert not torch.equal(splits.val[0][0], splits.test[0][0])
    for images, is_random in ((splits.train, True), (splits.val, False), (splits.test, False)):
        looks = {images[0][0].numpy().tobytes() for _ in range(20)}
        assert (len(looks) > 1) == is_random
    still = few_digits.ALL(SPEC, DATA, replace(RECIPE, crop_padding=0, flip=False)).train
    assert len({still[0][0].numpy().tobytes() for _ in range(20)}) == 1


def test_a_finished_training_is_not_done_again_unless_forced(
    whole: tuple[Path, Weights], tmp_path: Path
) -> None:
    lines: list[str] = []
    assert train(whole[0], lines.append) == whole[1]
    assert not lines
    one = replace(RECIPE, epochs=1)
    first = train(tmp_path, recipe=one)
    second = train(tmp_path, lines.append, recipe=one, force=True)
    assert len(lines) == 1
    assert second.sha256 == first.sha256
    assert second.seconds != first.seconds


def test_other_data_is_trained_on_anew(whole: tuple[Path, Weights], tmp_path: Path) -> None:
    one = replace(RECIPE, epochs=1)
    first = train(tmp_path, recipe=one)
    other = train(tmp_path, recipe=one, data=replace(DATA, sha256="0" * 64))
    assert first.path != other.path
    assert other.data_sha256 == "0" * 64


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=8)
    with script(tmp_path / "killed", "epochs=8") as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("epoch 3/8"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, said
    folder = folder_of(tmp_path / "killed", recipe)
    assert (folder / checkpoint.LAST).exists()
    assert not (folder / checkpoint.MANIFEST).exists()
    lines: list[str] = []
    resumed = train(tmp_path / "killed", lines.append, recipe=recipe)
    assert 1 < len(lines) < 8
    assert resumed.sha256 == train(tmp_path / "whole", recipe=recipe).sha256
    with (folder / checkpoint.METRICS).open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 9))
    assert not (folder / checkpoint.LAST).exists()


def interrupt(line: str) -> None:
    if line.startswith("epoch 2/"):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_stays_one_and_keeps_the_last_whole_epoch(
    whole: tuple[Path, Weights], tmp_path: Path
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    last = torch.load(folder_of(tmp_path) / checkpoint.LAST, weights_only=True)
    group = last["optimizer_states"][0]["param_groups"][0]
    assert (group["momentum"], group["weight_decay"]) == (RECIPE.momentum, RECIPE.weight_decay)
    assert len(last["history"]) in (1, 2)
    assert train(tmp_path).sha256 == whole[1].sha256


def test_processes_that_read_images_go_on_likewise(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise RuntimeError("enough")

    machine = replace(CPU, workers=1)
    whole = train(tmp_path / "whole", machine=machine)
    with pytest.raises(TrainingError, match="RuntimeError: enough"):
        train(tmp_path / "stopped", stop, machine=machine)
    lines: list[str] = []
    assert train(tmp_path / "stopped", lines.append, machine=machine).sha256 == whole.sha256
    assert len(lines) == 2


def test_a_training_that_ended_before_its_manifest_is_only_finished(
    whole: tuple[Path, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", fail)
        with pytest.raises(OSError, match="the lights"):
            train(tmp_path)
    lines: list[str] = []
    assert train(tmp_path, lines.append).sha256 == whole[1].sha256
    assert not lines


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    steep = replace(RECIPE, learning_rate=1000.0, epochs=20, schedule="cosine")
    with pytest.raises(
        TrainingError, match=r"^few with recipe few: the loss is (nan|inf) after epoch .*; give a smaller"
    ):
        train(tmp_path, recipe=steep)
    assert not (folder_of(tmp_path, steep) / checkpoint.MANIFEST).exists()


@pytest.mark.parametrize("batch_size", [TRAINED, 1000])
def test_a_batch_may_be_larger_than_the_data(tmp_path: Path, batch_size: int) -> None:
    recipe = replace(RECIPE, epochs=1, batch_size=batch_size)
    train(tmp_path, recipe=recipe)
    with (folder_of(tmp_path, recipe) / checkpoint.METRICS).open() as file:
        assert float(next(csv.DictReader(file))["train_n"]) == TRAINED


def test_a_damaged_or_foreign_epoch_says_which_file_to_remove(tmp_path: Path) -> None:
    last = folder_of(tmp_path) / checkpoint.LAST
    last.parent.mkdir(parents=True)
    last.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=f"failed: .*remove {last}$") as caught:
        train(tmp_path)
    assert "\n" not in str(caught.value)


CASES: list[tuple[dict[str, Any], type[DlasError], str]] = [
    ({"spec": replace(SPEC, weights="own.pt")}, UsageError, "few has weights of its own; train it without"),
    ({"spec": replace(SPEC, arguments=(("classes", 9),))}, ModelError, r"\[1, 9\], digits has 10 classes"),
    ({"machine": replace(CPU, accelerator="tpu")}, UsageError, "no training on this machine: "),
    ({"machine": replace(CPU, precision="3")}, UsageError, "no training on this machine: "),
]


@pytest.mark.parametrize(("changes", "kind", "message"), CASES)
def test_what_cannot_be_trained_says_why(
    tmp_path: Path, changes: dict[str, Any], kind: type[DlasError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        train(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(checkpoint.MANIFEST))


def test_a_network_that_fails_while_it_learns(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    write(
        "own_failing.py",
        """
        from torch import nn

        class Failing(nn.Linear):
            def forward(self, x):
                if self.training:
                    raise ValueError("I will not learn")
                return super().forward(x.mean(3).flatten(1))

        def net():
            return Failing(96, 10)
        """,
    )
    spec = ModelSpec("failing", "own_failing:net", SPEC.input_shape)
    with pytest.raises(
        TrainingError, match="training failing with recipe few failed: ValueError: I will not learn; "
    ):
        train(tmp_path, spec=spec)


CHANGING = """
    from torch import nn

    def net():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.{}(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
        )
"""


def test_a_network_that_changed_is_refused(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    write("own_changing.py", CHANGING.format("ReLU"))
    spec = ModelSpec("changing", "own_changing:net", SPEC.input_shape)
    found = train(tmp_path, spec=spec, recipe=replace(RECIPE, epochs=1))
    assert loading.load(spec, found).output.shape == (1, 10)
    write("own_changing.py", CHANGING.format("Tanh"))
    del sys.modules["own_changing"]
    with pytest.raises(ModelError, match=r"definition has changed since .* was trained; train it again"):
        loading.load(spec, found)


def test_a_network_that_changed_in_the_middle_does_not_go_on(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise RuntimeError("enough")

    spec = ModelSpec("changing", "own_changing:net", SPEC.input_shape)
    write("own_changing.py", CHANGING.format("ReLU"))
    with pytest.raises(TrainingError, match="enough"):
        train(tmp_path, stop, spec=spec)
    write("own_changing.py", CHANGING.format("Tanh"))
    del sys.modules["own_changing"]
    with pytest.raises(
        TrainingError,
        match=r"^changing: its definition, or PyTorch, has changed since .*; remove .*last.ckpt to",
    ):
        train(tmp_path, spec=spec)
    lines: list[str] = []
    train(tmp_path, lines.append, spec=spec, force=True)
    assert len(lines) == RECIPE.epochs


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork", "ddp_spawn"])
def test_two_devices_train_one_network(tmp_path: Path, strategy: str) -> None:
    with script(tmp_path, "devices=2", f"strategy={strategy}") as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    manifest = checkpoint.read(folder_of(tmp_path))
    assert manifest.sha256 in said
    assert (manifest.val_n, manifest.test_n) == (WATCHED, WATCHED)
    splits = few_digits.open_few(SPEC, DATA, RECIPE)
    found = Weights("trained", folder_of(tmp_path) / checkpoint.WEIGHTS, manifest.sha256)
    images = np.stack([splits.test[i][0].numpy() for i in range(WATCHED)])
    logits = loading.predict(loading.load(SPEC, found).module, images)
    labels = np.array([splits.test[i][1] for i in range(WATCHED)])
    assert manifest.test_top1_fraction == (logits.argmax(1) == labels).sum() / WATCHED
