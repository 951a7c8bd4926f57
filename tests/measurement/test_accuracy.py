"""What is counted, and what is wrong, when images go through a device that answers as it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dlas.errors import UsageError
from dlas.measurement import accuracy as accuracy_module
from dlas.measurement.accuracy import take_accuracy
from dlas.values import Accuracy, Evaluation
from tests.measurement.answering import Answering, make_artifact


def make_evaluation(logits: np.ndarray, labels: list[int]) -> Evaluation:
    images = np.arange(len(labels) * 48, dtype=np.float32).reshape(-1, 3, 4, 4)
    return Evaluation(images, np.array(labels), logits, "d", 1.0)


def take(folder: Path, device: Answering, evaluation: Evaluation, batch: int = 1) -> Accuracy:
    artifact = make_artifact(folder, batch, evaluation.logits.shape[1])
    return take_accuracy(device, artifact, evaluation, "fp32", 2)


LOGITS = np.array([[9, 1, 0], [0, 5, 1], [2, 0, 7], [6, 0, 0]], np.float32)
LABELS = [0, 1, 1, 0]


def test_right_answers_are_counted(tmp_path: Path) -> None:
    device = Answering(LOGITS)
    accuracy = take(tmp_path, device, make_evaluation(LOGITS, LABELS))
    assert (accuracy.status, accuracy.reason, accuracy.max_error_over_scale) == ("measured", "", 0)
    assert (accuracy.top1_fraction, accuracy.reference_top1_fraction, accuracy.n) == (0.75, 0.75, 4)
    assert (accuracy.differing, accuracy.top5_fraction) == (0, None)
    predictions = np.array([0, 1, 2, 0], "<i8").tobytes()
    assert accuracy.predictions_sha256 == hashlib.sha256(predictions).hexdigest()
    (job,) = device.jobs
    assert (job.inputs.shape, job.repeats, job.warmups, job.threads) == ((4, 1, 3, 4, 4), 0, 0, 2)


def test_a_tie_is_no_fault(tmp_path: Path) -> None:
    reference = np.array([[1.0, 1.0 + 1e-6, 0], [5, 0, 0]], np.float32)
    tied = np.array([[1.0 + 1e-6, 1.0, 0], [5, 0, 0]], np.float32)
    accuracy = take(tmp_path, Answering(tied), make_evaluation(reference, [1, 0]))
    assert (accuracy.status, accuracy.differing) == ("measured", 1)
    assert (accuracy.top1_fraction, accuracy.reference_top1_fraction) == (0.5, 1.0)


def test_an_output_that_is_not_the_oracles_is_wrong(tmp_path: Path) -> None:
    wrong = LOGITS.copy()
    wrong[2, 0] += 0.01
    accuracy = take(tmp_path, Answering(wrong), make_evaluation(LOGITS, LABELS))
    assert accuracy.status == "wrong_output"
    assert "differs from that of pytorch by 0.0011 of its scale, allowed is 0.0001" in accuracy.reason
    assert accuracy.differing == 0


def test_an_unstable_output_is_wrong(tmp_path: Path) -> None:
    accuracy = take(tmp_path, Answering(LOGITS, stable=False), make_evaluation(LOGITS, LABELS))
    assert (accuracy.status, accuracy.reason) == (
        "wrong_output",
        "the last run gave another output than the first on its input",
    )


def test_images_fill_the_networks_batch_or_are_left_out(tmp_path: Path) -> None:
    logits = np.concatenate([LOGITS, LOGITS[:1]])
    device = Answering(LOGITS)
    accuracy = take(tmp_path, device, make_evaluation(logits, [*LABELS, 2]), batch=2)
    assert (accuracy.n, accuracy.top1_fraction) == (4, 0.75)
    assert device.jobs[0].inputs.shape == (2, 2, 3, 4, 4)
    assert device.jobs[0].inputs[1, 0].flat[0] == 96
    with pytest.raises(UsageError, match="5 images do not fill a batch of 6; take more"):
        take(tmp_path, device, make_evaluation(logits, [*LABELS, 2]), batch=6)


def test_many_images_go_in_several_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_module, "JOB_BYTES", 3 * 3 * 4 * 4 * 4 + 1)
    device = Answering(LOGITS)
    accuracy = take(tmp_path, device, make_evaluation(LOGITS, LABELS))
    assert [len(job.inputs) for job in device.jobs] == [3, 1]
    assert device.jobs[1].inputs.flat[0] == 3 * 48
    assert (accuracy.n, accuracy.top1_fraction) == (4, 0.75)
    assert (accuracy.run_seconds, accuracy.ship_seconds) == (4.0, 1.0)


def test_top5_is_taken_where_classes_are_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((50, 1000)).astype(np.float32)
    order = np.argsort(-logits, axis=1)
    labels = [int(order[i, i % 10]) for i in range(50)]  # the true class is 1st, 2nd, ... 10th
    accuracy = take(tmp_path, Answering(logits), make_evaluation(logits, labels))
    assert (accuracy.top1_fraction, accuracy.top5_fraction) == (0.1, 0.5)
