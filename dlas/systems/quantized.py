"""A quantized network, imported from ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from dlas.errors import ModelError
from dlas.systems.frontend import Imported


def import_quantized(path: Path, x: np.ndarray) -> Imported:
    """Import a network that `compression.quantize` wrote, with an input of it. Raises ModelError.

    Its convolutions are of float32, between relax.quantize and relax.dequantize; see `integers`.
    """
    try:
        mod = from_onnx(onnx.load(str(path)), keep_params_in_input=False)
    except Exception as error:  # the importer's own, onnx's and TVM's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"TVM cannot import {path}: {reason}", "use precision fp32 for this network"
        ) from error
    if not isinstance(mod["main"].ret_ty, relax.TensorType):
        raise ModelError(f"{path} does not return one tensor", "return one tensor from forward")
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return Imported(tvm.transform.Sequential(passes)(mod), x)
