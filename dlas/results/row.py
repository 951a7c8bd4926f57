"""Making rows: from a measurement, or from the reason why there is none."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dlas.results.schema import SCHEMA_VERSION
from dlas.values import (
    NO_IMAGE,
    REPEATS,
    Accuracy,
    Artifact,
    Cell,
    ContainerImage,
    DeviceFacts,
    Evaluation,
    Row,
    Samples,
    Weights,
)


def measured(blank: Row, artifact: Artifact, samples: Samples) -> Row:
    """The row of a measurement. Where its times do not count they stay, and its status says so."""
    row, result = _with_artifact(blank, artifact), samples.result
    return _filled(
        row,
        status=samples.status,
        reason=samples.reason,
        publishable=samples.status == "measured" and len(result.samples_ns) >= REPEATS,
        samples_ns=list(result.samples_ns),
        warmup_ns=list(result.warmup_ns),
        max_error_over_scale=samples.max_error_over_scale,
        float32_error_over_scale=samples.float32_error_over_scale,
        accuracy_reason=blank.accuracy_reason or (samples.reason if samples.status == "wrong_output" else ""),
        gpu=result.gpu,
        cpu_set=result.cpu_set,
        environment_before=dict(result.before),
        environment_after=dict(result.after),
        stage_seconds=row.stage_seconds | {"measure": result.run_seconds, "ship": result.ship_seconds},
        peak_rss_bytes=result.peak_rss_bytes,
    )


def with_accuracy(row: Row, accuracy: Accuracy, evaluation: Evaluation) -> Row:
    """A measured row with the accuracy of its artifact. What is wrong on an image is wrong altogether."""
    seconds = {**row.stage_seconds, "reference": evaluation.seconds, "accuracy": accuracy.run_seconds}
    seconds["ship"] += accuracy.ship_seconds
    is_wrong = accuracy.status != "measured"
    return _filled(
        row,
        status=accuracy.status if is_wrong else row.status,
        reason=accuracy.reason if is_wrong else row.reason,
        publishable=row.publishable and not is_wrong,
        max_error_over_scale=_worse(accuracy.max_error_over_scale, row.max_error_over_scale or 0.0),
        top1_fraction=accuracy.top1_fraction,
        top5_fraction=accuracy.top5_fraction,
        top1_n=accuracy.n,
        reference_top1_fraction=accuracy.reference_top1_fraction,
        predictions_differing=accuracy.differing,
        predictions_sha256=accuracy.predictions_sha256,
        misclassified=accuracy.misclassified.tolist(),
        dataset_sha256=evaluation.dataset_sha256,
        stage_seconds=seconds,
    )


def without_accuracy(row: Row, reason: str) -> Row:
    """A measured row whose artifact cannot be judged, and why."""
    return _filled(row, accuracy_reason=reason)


def failed(blank: Row, reason: str, artifact: Artifact | None = None) -> Row:
    """The row of a cell that was tried and has no result. Times that were taken stay, but do not count."""
    row = _with_artifact(blank, artifact) if artifact else blank
    return _filled(row, status="failed", reason=reason, publishable=False)


def invalid(blank: Row, reason: str) -> Row:
    """The row of a cell that cannot be, and why."""
    return _filled(blank, status="invalid", reason=reason)


def blank(
    sweep: str,
    cell: Cell,
    started_at: datetime,
    inputs_key: str,
    repeats: int,
    replicate: int = 0,
    runner: str = "",
    facts: DeviceFacts | None = None,
    image: ContainerImage = NO_IMAGE,
    emulated: bool = False,
    timer: str = "",
    threads: int = 0,
    commit: str = "",
    log: str = "",
    weights: Weights | None = None,
    accuracy_reason: str = "",
    tuning_trials: int = 0,
    tuning_seconds: float = 0.0,
    tuning_sha256: str = "",
) -> Row:
    """What is known of a row before anything has run: the cell, its weights, and where it will run."""
    return Row(
        schema_version=SCHEMA_VERSION,
        cell=cell.id,
        sweep=sweep,
        dataset=cell.dataset,
        model=cell.model.name,
        compression=cell.compression,
        level_fraction=None,
        weight_sparsity_fraction=None,
        mac_sparsity_fraction=None,
        weight_bytes=None,
        dense_weight_bytes=None,
        precision=cell.precision,
        arithmetic="",
        format=cell.format,
        layout="",
        algorithm=cell.algorithm,
        tuning=cell.tuning,
        tuning_trials=tuning_trials,
        tuning_seconds=tuning_seconds,
        tuning_sha256=tuning_sha256,
        tuned_fraction=None,
        target=cell.target,
        runner=runner,
        device=facts.fingerprint if facts else "",
        device_model=facts.cpu_model if facts else "",
        replicate=replicate,
        emulated=emulated,
        status="failed",
        reason="",
        publishable=False,
        repeats=repeats,
        samples_ns=[],
        warmup_ns=[],
        max_error_over_scale=None,
        float32_error_over_scale=None,
        oracle="",
        top1_fraction=None,
        top5_fraction=None,
        top1_n=None,
        reference_top1_fraction=None,
        predictions_differing=None,
        predictions_sha256="",
        misclassified=[],
        accuracy_reason=accuracy_reason,
        trained=weights.trained if weights else None,
        weights=weights.origin if weights else "",
        weights_sha256=weights.sha256 if weights else "",
        recipe=weights.recipe if weights else "",
        finetuning=weights.finetuning if weights else "",
        calibration="",
        dataset_sha256="",
        artifact_sha256="",
        image_id=image.id,
        image_base=image.base,
        stand_in=image.stand_in,
        gpu="",
        timer=timer,
        threads=threads,
        cpu_set="",
        ops_total=None,
        ops_as_asked=None,
        ops_depthwise=None,
        ops_integer=None,
        ops_sparse=None,
        fallbacks=[],
        kernels=[],
        versions={},
        environment_before={},
        environment_after={},
        started_at=started_at,
        stage_seconds=_learning_seconds(weights) if weights else {},
        peak_rss_bytes=None,
        inputs_key=inputs_key,
        commit=commit,
        log=log,
    )


def _learning_seconds(weights: Weights) -> dict[str, float]:
    spent = {"train": weights.seconds, "finetune": weights.finetune_seconds}
    return {stage: seconds for stage, seconds in spent.items() if seconds}


def _with_artifact(row: Row, artifact: Artifact) -> Row:
    return _filled(
        row,
        artifact_sha256=artifact.sha256,
        ops_total=artifact.ops_total,
        ops_as_asked=artifact.ops_as_asked,
        ops_depthwise=artifact.ops_depthwise,
        ops_integer=artifact.ops_integer,
        ops_sparse=artifact.ops_sparse,
        tuned_fraction=artifact.ops_tuned / artifact.ops_total if artifact.ops_total else 0.0,
        level_fraction=artifact.level_fraction,
        weight_sparsity_fraction=artifact.weight_sparsity_fraction,
        mac_sparsity_fraction=artifact.mac_sparsity_fraction,
        weight_bytes=artifact.weight_bytes,
        dense_weight_bytes=artifact.dense_weight_bytes,
        arithmetic=artifact.arithmetic,
        layout=artifact.layout,
        oracle=artifact.oracle_name,
        calibration=artifact.calibration,
        fallbacks=list(artifact.fallbacks),
        kernels=list(artifact.kernels),
        versions=dict(artifact.versions),
        stage_seconds={**row.stage_seconds, **artifact.stage_seconds},
    )


def _worse(a: float, b: float) -> float:
    """The larger error; one that is not a number is worse than any.

    >>> _worse(1.0, float("nan")), _worse(float("nan"), 1.0), _worse(1.0, 2.0)
    (nan, nan, 2.0)
    """
    return max(a, b, key=lambda error: (error != error, error))


def _filled(row: Row, **columns: Any) -> Row:
    return Row(**{**vars(row), **columns})
