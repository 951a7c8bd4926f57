"""What is compared with what, and how far it may be off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlas.measurement.measure import TOLERANCE, find_fault, measure
from tests.measurement.answering import Answering, make_artifact


@pytest.mark.parametrize(("precision", "status"), [("int8", "measured"), ("fp16", "wrong_output")])
def test_an_output_is_compared_with_its_oracle_and_with_float32(
    tmp_path: Path, precision: str, status: str
) -> None:
    artifact = make_artifact(tmp_path, 1, 3, "onnxruntime")
    samples = measure(Answering(np.full((1, 3), 1.8, np.float32)), artifact, precision, 1)
    assert samples.max_error_over_scale == pytest.approx(0.1)
    assert samples.float32_error_over_scale == pytest.approx(0.55)
    assert samples.status == status
    assert (samples.reason == "") == (status == "measured")
    if samples.reason:
        assert samples.reason.startswith("output differs from that of onnxruntime by 0.1 of its scale, ")


@pytest.mark.parametrize("precision", TOLERANCE)
def test_each_precision_has_its_tolerance(precision: str) -> None:
    allowed = TOLERANCE[precision]
    assert find_fault(allowed, precision, True, "pytorch") == ""
    assert f"allowed is {allowed:g}" in find_fault(1.01 * allowed, precision, True, "pytorch")
    assert "differs from that of pytorch" in find_fault(float("nan"), precision, True, "pytorch")
    assert "the last run gave another output" in find_fault(0.0, precision, False, "pytorch")
