"""Correct first, then timed: an artifact's output is compared with the oracle before its times count."""

from __future__ import annotations

import numpy as np

from dlas.measurement.environment import OBSERVED, find_breach
from dlas.values import NO_BOUNDS, REPEATS, Artifact, Bounds, Device, Job, Samples

# Error over output scale. The sums of an fp32 network in another order differ by about 1e-6. Activations that
# are stored in float16 have 11 bits each. Where rounding is to integers, a sum next to a half comes out one
# step off, and the layers after it pass that on: of the paper's networks, quantized and untrained, ONNX
# Runtime's own optimised form is up to 0.06 off its literal one.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.2, "int8_ort_default": 0.2}


def measure(
    device: Device,
    artifact: Artifact,
    precision: str,
    threads: int,
    repeats: int = REPEATS,
    timeout_s: float = Job.timeout_s,
    bounds: Bounds = NO_BOUNDS,
) -> Samples:
    """Run an artifact on a device, check its output, and keep its times.

    The status is `wrong_output`; else `emulated` where times mean nothing; else `quarantined` where the
    device was out of bounds; else `measured`. Raises DeviceError, DeviceBusyError or EngineError.
    """
    result = device.run(
        Job(
            module=artifact.module,
            inputs=artifact.input()[None],
            output_shape=artifact.output_shape,
            threads=threads,
            repeats=repeats,
            observe=OBSERVED,
            timeout_s=timeout_s,
        )
    )
    error = error_over_scale(result.outputs[0], artifact.oracle())
    reason = find_fault(error, precision, result.output_stable, artifact.oracle_name)
    of_float32 = error_over_scale(result.outputs[0], artifact.float32())
    status = "wrong_output" if reason else "emulated" if device.emulated else "measured"
    if status == "measured":
        reason = find_breach(bounds, result.cpu_set, result.before, result.after)
        status = "quarantined" if reason else "measured"
    return Samples(status, reason, error, of_float32, result)


def find_fault(error: float, precision: str, is_stable: bool, oracle: str) -> str:
    """Why outputs cannot be trusted; empty when they can. is_stable: `JobResult.output_stable`."""
    allowed = TOLERANCE[precision]
    if not error <= allowed:  # also where it is not a number
        return f"output differs from that of {oracle} by {error:.2g} of its scale, allowed is {allowed:g}"
    return "" if is_stable else "the last run gave another output than the first on its input"


def error_over_scale(output: np.ndarray, oracle: np.ndarray) -> float:
    """The largest difference over the oracle's largest magnitude; infinite where a value is not finite.

    >>> error_over_scale(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    0.5
    """
    if not np.isfinite(output).all():
        return float("inf")
    scale = float(np.abs(oracle).max()) or 1.0
    return float(np.abs(output.astype("float64") - oracle).max()) / scale
