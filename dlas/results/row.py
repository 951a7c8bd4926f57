"""Making rows: from a measurement, or from the reason why there is none."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dlas.results.schema import SCHEMA_VERSION
from dlas.values import REPEATS, Artifact, Cell, DeviceFacts, Row, Samples


def measured(blank: Row, artifact: Artifact, samples: Samples) -> Row:
    """The row of a measurement. A wrong output keeps its times; its status says that they do not count."""
    result = samples.result
    return _filled(
        _with_artifact(blank, artifact),
        status=samples.status,
        reason=samples.reason,
        publishable=samples.status == "measured" and len(result.samples_ns) >= REPEATS,
        samples_ns=list(result.samples_ns),
        warmup_ns=list(result.warmup_ns),
        max_error_over_scale=samples.max_error_over_scale,
        cpu_set=result.cpu_set,
        environment_before=dict(result.before),
        environment_after=dict(result.after),
        peak_rss_bytes=result.peak_rss_bytes,
    )


def failed(blank: Row, reason: str, artifact: Artifact | None = None) -> Row:
    """The row of a cell that was tried and gave no times."""
    row = _with_artifact(blank, artifact) if artifact else blank
    return _filled(row, status="failed", reason=reason)


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
    image_id: str = "",
    threads: int = 0,
    log: str = "",
) -> Row:
    """What is known of a row before anything has run: the cell and where it will run."""
    return Row(
        schema_version=SCHEMA_VERSION,
        cell=cell.id,
        sweep=sweep,
        dataset=cell.dataset,
        model=cell.model.name,
        compression=cell.compression,
        precision=cell.precision,
        format=cell.format,
        layout="nchw",
        algorithm=cell.algorithm,
        tuning=cell.tuning,
        target=cell.target,
        runner=runner,
        device=facts.fingerprint if facts else "",
        device_model=facts.cpu_model if facts else "",
        replicate=replicate,
        emulated=False,
        status="failed",
        reason="",
        publishable=False,
        repeats=repeats,
        samples_ns=[],
        warmup_ns=[],
        max_error_over_scale=None,
        trained=None,
        artifact_sha256="",
        image_id=image_id,
        threads=threads,
        cpu_set="",
        ops_total=None,
        ops_as_asked=None,
        ops_depthwise=None,
        fallbacks=[],
        kernels=[],
        versions={},
        environment_before={},
        environment_after={},
        started_at=started_at,
        build_seconds=None,
        peak_rss_bytes=None,
        inputs_key=inputs_key,
        log=log,
    )


def _with_artifact(row: Row, artifact: Artifact) -> Row:
    return _filled(
        row,
        trained=artifact.trained,
        artifact_sha256=artifact.sha256,
        ops_total=artifact.ops_total,
        ops_as_asked=artifact.ops_as_asked,
        ops_depthwise=artifact.ops_depthwise,
        fallbacks=list(artifact.fallbacks),
        kernels=list(artifact.kernels),
        versions=dict(artifact.versions),
        build_seconds=artifact.build_seconds,
    )


def _filled(row: Row, **columns: Any) -> Row:
    return Row(**{**vars(row), **columns})
