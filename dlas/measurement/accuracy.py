"""Accuracy of the very artifact that was timed: images go through it on its device, as PyTorch saw them."""

from __future__ import annotations

import hashlib

import numpy as np

from dlas.errors import UsageError
from dlas.measurement.measure import error_over_scale, find_fault
from dlas.values import Accuracy, Artifact, Device, Evaluation, Job

TOP5_CLASSES = 100  # with fewer classes the true one is among any five too often
JOB_BYTES = 1 << 30  # of images in one job: its archive holds 8 GiB, and its time-out is for all of them


def take_accuracy(
    device: Device,
    artifact: Artifact,
    evaluation: Evaluation,
    precision: str,
    threads: int,
    timeout_s: float = Job.timeout_s,
) -> Accuracy:
    """Feed the images to an artifact on a device and count how often it is right.

    Every output is compared with the oracle's, so that a class of its own choice is a tie within the
    tolerance or makes the status `wrong_output`. Images that do not fill the network's batch are
    left out. Raises UsageError, DeviceError, DeviceBusyError or EngineError.
    """
    shape = artifact.input().shape
    batches = len(evaluation.images) // shape[0]
    if batches == 0:
        raise UsageError(f"{len(evaluation.images)} images do not fill a batch of {shape[0]}", "take more")
    n = batches * shape[0]
    inputs = evaluation.images[:n].reshape(batches, *shape)
    results = [
        device.run(
            Job(
                module=artifact.module,
                inputs=part,
                output_shape=artifact.output_shape,
                threads=threads,
                repeats=0,
                warmups=0,
                timeout_s=timeout_s,
            )
        )
        for part in _split(inputs)
    ]
    outputs = np.concatenate([result.outputs for result in results]).reshape(n, -1)
    labels, logits = evaluation.labels[:n], evaluation.logits[:n]
    error = error_over_scale(outputs, logits)
    reason = find_fault(
        error, precision, all(result.output_stable for result in results), artifact.oracle_name
    )
    predictions, reference = outputs.argmax(1), logits.argmax(1)
    return Accuracy(
        status="wrong_output" if reason else "measured",
        reason=reason,
        max_error_over_scale=error,
        top1_fraction=float((predictions == labels).mean()),
        top5_fraction=_top5_fraction(outputs, labels),
        n=n,
        predictions_sha256=hashlib.sha256(predictions.astype("<i8").tobytes()).hexdigest(),
        misclassified=np.flatnonzero(predictions != labels),
        reference_top1_fraction=float((reference == labels).mean()),
        differing=int((predictions != reference).sum()),
        run_seconds=sum(result.run_seconds for result in results),
        ship_seconds=sum(result.ship_seconds for result in results),
    )


def _split(inputs: np.ndarray) -> list[np.ndarray]:
    """Parts of at most JOB_BYTES each, or of one input."""
    length = max(1, JOB_BYTES // inputs[0].nbytes)
    return [inputs[first : first + length] for first in range(0, len(inputs), length)]


def _top5_fraction(outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """How often fewer than five classes are above the true one. outputs: (n, classes); labels: (n,)."""
    if outputs.shape[1] < TOP5_CLASSES:
        return None
    own = np.take_along_axis(outputs, labels[:, None], axis=1)
    return float(((outputs > own).sum(1) < 5).mean())
