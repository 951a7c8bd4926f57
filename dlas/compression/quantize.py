"""Post-training static quantization with ONNX Runtime: 8-bit weights and activations, calibrated on images.

The result is a QDQ graph: each integer operator is written as DequantizeLinear -> its float form ->
QuantizeLinear. What it means is what `predict` computes, one float operator after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from dlas.cache import atomic_write, storage_error, temporary_folder
from dlas.compression.export import first_line, quiet, serialize
from dlas.errors import DlasError, ModelError, UsageError

ARMS = ("int8_ort_default", "int8")
NOISE_IMAGES = 8
ACTIVATIONS = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}

_ERRORS_ONLY = 3


def quantize(float_model: Path, images: np.ndarray, arm: str, activations: str, out: Path) -> None:
    """Write the quantized form of a float32 ONNX file: one QDQ file, the same bytes for the same inputs.

    images: float32 (n, C, H, W), normalised, may be memory-mapped. The range of each activation is from
    its least to its largest value over all of them (MinMax). Biases are int32.

    int8_ort_default: ONNX Runtime's default static configuration: signed activations and weights, one
    scale for a whole tensor; it takes no notice of `activations`. int8: see `_practice`; activations
    (uint8 or int8) are asymmetric in both types, so these two differ only in zero points.

    Raises UsageError for images that do not fit, ModelError for a model that cannot be quantized,
    StorageError.
    """
    for what, word, known in (("arm", arm, ARMS), ("activations", activations, tuple(ACTIVATIONS))):
        if word not in known:
            raise UsageError(f"unknown {what} {word!r}", f"choose from {', '.join(known)}")
    try:
        model = onnx.load(float_model)
        _check_weights(model, float_model)
        reader = _Reader(model.graph.input[0].name, _batches(images, _input_shape(model)))
        options = _practice(activations) if arm == "int8" else {}
        with temporary_folder(out.parent) as folder, quiet():
            made = folder / "model.onnx"
            ort.set_default_logger_severity(_ERRORS_ONLY)
            # A model and not its path: a path gets a second file beside it while its shapes are inferred.
            quantize_static(model, made, reader, **options)
            data = serialize(_without_unused_domains(onnx.load(made)))
    except DlasError:
        raise
    except OSError as error:
        raise storage_error(Path(error.filename or out), error) from error
    except Exception as error:  # ONNX's and ONNX Runtime's have no common base
        cause = f"{float_model} cannot be quantized: {first_line(error)}"
        raise ModelError(cause, "leave int8 out for this network") from error
    atomic_write(out, data)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """What to calibrate on where there is no data: standard normal, float32, NOISE_IMAGES of this shape."""
    return np.random.default_rng(0).standard_normal((NOISE_IMAGES, *shape[1:]), dtype=np.float32)


def predict(model: Path, images: np.ndarray) -> np.ndarray:
    """float32 outputs (n, classes) of a quantized model taken literally, for images (n, C, H, W).

    No graph optimisation joins operators: each is computed in float32 between the roundings that the graph
    has. One thread. This is what compiled integer code is compared with. Raises UsageError and ModelError.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        node = session.get_inputs()[0]
        outputs = [session.run(None, {node.name: x})[0] for x in _batches(images, tuple(node.shape))]
    except DlasError:
        raise
    except Exception as error:  # ONNX Runtime's have no common base
        raise ModelError(f"{model} cannot be run: {first_line(error)}", "make it again") from error
    result: np.ndarray = np.concatenate(outputs)[: len(images)]
    return result


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives ONNX Runtime one batch after the other."""

    def __init__(self, name: str, batches: Iterator[np.ndarray]) -> None:
        self._name = name
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _batches(images: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Images in batches of the network's input; the last one is filled up from the first images."""
    if images.dtype != np.float32 or images.shape[1:] != shape[1:] or not len(images):
        found = f"{images.dtype} images of shape {list(images.shape)}"
        raise UsageError(found, f"give at least one float32 image of shape {list(shape[1:])}")
    return _checked_batches(images, shape[0])


def _checked_batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        batch = np.ascontiguousarray(images[np.arange(start, start + size) % len(images)])
        if not np.isfinite(batch).all():
            raise UsageError(f"an image from {start} on has NaN or infinity", "correct the data")
        yield batch


def _practice(activations: str) -> dict[str, Any]:
    """How arm int8 differs from ONNX Runtime's defaults. Accuracies are those of small networks on digits.

    One weight scale per output channel: filters differ in range, by most where they are depthwise (3 dB).
    The output of a fully connected layer stays float32 (its inputs do not): 256 steps would leave ties
    between the classes, and nothing after it computes with integers (1 to 7 dB). Batch norms that follow no
    convolution (DenseNet's) keep their float32 factors: 8-bit ones only add operators, also to a peer.
    Asymmetric activations and removed ReLUs are the defaults, and stay: a clipped range is the ReLU, and
    half of a symmetric one would be empty behind it (3 to 5 dB).
    """
    every = {*QDQRegistry, *QLinearOpsRegistry}
    return {
        "per_channel": True,
        "activation_type": ACTIVATIONS[activations],
        "weight_type": QuantType.QInt8,
        "op_types_to_quantize": sorted(every - {"BatchNormalization"}),
        "extra_options": {"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    }


def _input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim)


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    floats = (each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    for tensor in floats:
        if not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise ModelError(f"{path}: {tensor.name} has NaN or infinity", "give the network other weights")


def _without_unused_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model
