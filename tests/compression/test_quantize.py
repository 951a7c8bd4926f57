"""Quantized networks: what their numbers mean, which types they have, and what is refused."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from dlas.compression.export import export_onnx
from dlas.compression.quantize import ARMS, predict, quantize
from dlas.errors import ModelError, StorageError, UsageError
from dlas.models.loading import load
from dlas.values import ModelSpec, Weights

Quantized = dict[tuple[str, str], Path]
BOTH = [("int8", "uint8"), ("int8", "int8"), ("int8_ort_default", "uint8")]


class Residual(nn.Module):
    """Convolutions of each kind, a residual, a batch norm behind no convolution, a layer that decides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        self.point = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(16)
        self.decide = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.point(self.depthwise(x)) + x)
        x = torch.relu(self.norm(torch.cat([x, x * 0.5], 1)))
        decided: torch.Tensor = self.decide(x.mean((2, 3)))
        return decided


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def network() -> Residual:
    torch.manual_seed(0)
    network = Residual()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)  # else there would be no bias to quantize
    with torch.no_grad():
        next(network.depthwise.parameters()).mul_(torch.logspace(-1, 1, 8).reshape(8, 1, 1, 1))
    return network.eval()


@pytest.fixture(scope="module")
def float_model(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(network, images(1), path)
    return path


@pytest.fixture(scope="module")
def quantized(float_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder = tmp_path_factory.mktemp("quantized")
    paths = {(arm, kind): folder / f"{arm}_{kind}.onnx" for arm, kind in BOTH}
    for (arm, kind), path in paths.items():
        quantize(float_model, images(16), arm, kind, path)
    assert sorted(folder.iterdir()) == sorted(paths.values())
    assert list(float_model.parent.iterdir()) == [float_model]
    return paths


def constants(path: Path) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(("arm", "kind", "types"), [(*BOTH[0], "u1"), (*BOTH[1], "i1"), (*BOTH[2], "i1")])
def test_types_and_scales(quantized: Quantized, arm: str, kind: str, types: str) -> None:
    path = quantized[arm, kind]
    known, nodes = constants(path), onnx.load(path).graph.node
    onnx.checker.check_model(onnx.load(path))
    assert {node.domain for node in nodes} == {""}
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            assert known[node.input[2]].dtype == np.dtype(types)
            assert known[node.input[1]].shape == ()
    producers = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
    for node in nodes:
        if node.op_type in ("Conv", "Gemm"):
            _, weight, bias = (producers[name] for name in node.input)
            assert known[weight.input[0]].dtype == np.int8
            assert not known[weight.input[2]].any()
            channels = len(known[weight.input[0]]) if arm == "int8" else 1
            assert known[weight.input[1]].size == channels
            assert known[bias.input[0]].dtype == np.int32


def test_relus_are_ranges(quantized: Quantized, network: nn.Module) -> None:
    counts = Counter(node.op_type for node in onnx.load(quantized["int8", "uint8"]).graph.node)
    assert (counts["Clip"], counts["Relu"]) == (0, 1)  # the one behind the batch norm, which is not quantized
    default = Counter(node.op_type for node in onnx.load(quantized["int8_ort_default", "uint8"]).graph.node)
    assert default["Relu"] == default["Clip"] == 0


def test_a_batch_norm_keeps_float_factors_in_int8_alone(quantized: Quantized) -> None:
    for (arm, _), path in quantized.items():
        (norm,) = (node for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization")
        assert (norm.input[1] in constants(path)) == (arm == "int8")


def test_only_the_default_rounds_the_classes_to_steps(quantized: Quantized) -> None:
    def distinct(path: Path) -> int:
        return len(np.unique(predict(path, images(64, 1))))

    assert distinct(quantized["int8_ort_default", "uint8"]) <= 256
    assert distinct(quantized["int8", "uint8"]) > 600


def test_both_activation_types_mean_the_same(quantized: Quantized) -> None:
    unsigned, signed = (predict(quantized["int8", kind], images(4, 1)) for kind in ("uint8", "int8"))
    np.testing.assert_allclose(unsigned, signed, rtol=0, atol=1e-5)


def test_each_channel_with_its_own_scale_is_nearer(quantized: Quantized, network: nn.Module) -> None:
    test = images(64, 1)
    with torch.no_grad():
        expected = network(torch.from_numpy(test)).numpy()
    error = {arm: float(np.abs(predict(quantized[arm, "uint8"], test) - expected).mean()) for arm in ARMS}
    assert error["int8"] < 0.02 * np.abs(expected).mean()
    assert error["int8"] < error["int8_ort_default"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_prediction_is_the_arithmetic_that_is_written(tmp_path: Path, count: int) -> None:
    torch.manual_seed(1)
    layer, calibration, test = nn.Linear(5, 3), images(4)[:, 0, 0, :5], 3 * images(count, 1)[:, 0, 0, :5]
    calibration[-1, 2] = 9.0
    export_onnx(layer, calibration[:1], tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", calibration, "int8", "uint8", tmp_path / "int8.onnx")

    low, high = calibration.min(), np.float32(9)
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    steps = np.clip(np.round(test / scale) + zero, 0, 255) - zero
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    weight_scale = np.abs(weight).max(1, keepdims=True) / 127
    bias_steps = np.round(bias / (scale * weight_scale[:, 0]))
    sums = steps @ np.round(weight / weight_scale).T + bias_steps
    expected = sums * scale * weight_scale[:, 0]
    output = predict(tmp_path / "int8.onnx", test)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_a_prediction_is_that_of_the_operators_definitions(tmp_path: Path) -> None:
    spec = ModelSpec("small", "dlas.models.resnet:resnet18", (1, 3, 32, 32), (("width", 8),))
    model = load(spec, Weights("untrained"))
    export_onnx(model.module, model.input, tmp_path / "float.onnx")
    x = np.random.default_rng(1).standard_normal((16, 3, 32, 32), dtype=np.float32)
    quantize(tmp_path / "float.onnx", model.input, "int8", "uint8", tmp_path / "int8.onnx")
    round_scales(tmp_path / "int8.onnx")
    reference = ReferenceEvaluator(onnx.load(tmp_path / "int8.onnx"))
    (name,) = reference.input_names
    expected = np.concatenate([reference.run(None, {name: each[None]})[0] for each in x])
    np.testing.assert_array_equal(predict(tmp_path / "int8.onnx", x), expected)


LINEAR = ("QuantizeLinear", "DequantizeLinear")


def round_scales(path: Path) -> None:
    """Make each scale of a quantized model a power of two.

    Then float32 holds every product and sum exactly, and their order, which processors choose, is nothing to
    the rounding after it.
    """
    model = onnx.load(path)
    scales = {node.input[1] for node in model.graph.node if node.op_type in LINEAR}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            array = 2.0 ** np.round(np.log2(numpy_helper.to_array(tensor)))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    onnx.save(model, path)


def test_the_same_inputs_give_the_same_bytes(float_model: Path, quantized: Quantized, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images(16))
    program = (
        "import sys, numpy, pathlib; from dlas.compression.quantize import quantize;"
        "images = numpy.load(sys.argv[2], mmap_mode='r');"
        "quantize(pathlib.Path(sys.argv[1]), images, *sys.argv[3:5], pathlib.Path(sys.argv[5]))"
    )
    for number, ((arm, kind), path) in enumerate(quantized.items()):
        again = tmp_path / "again.onnx"
        arguments = [str(float_model), str(tmp_path / "images.npy"), arm, kind, str(again)]
        environment = {**os.environ, "PYTHONHASHSEED": str(number + 1)}
        ended = subprocess.run(
            [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, check=True
        )
        assert (ended.stdout, ended.stderr) == (b"", b"")
        assert again.read_bytes() == path.read_bytes()


def test_all_images_count_and_batches_do_not(network: nn.Module, tmp_path: Path) -> None:
    outputs = []
    for batch in (1, 2):
        export_onnx(network, images(batch), tmp_path / "float.onnx")
        quantize(tmp_path / "float.onnx", images(3), "int8", "uint8", tmp_path / "int8.onnx")
        outputs.append(predict(tmp_path / "int8.onnx", images(5, 1)))
    assert outputs[1].shape == (5, 10)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-5)


def test_nothing_is_printed_or_left(
    float_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = list(logging.getLogger().handlers)
    quantize(float_model, images(2), "int8_ort_default", "int8", tmp_path / "int8.onnx")
    predict(tmp_path / "int8.onnx", images(1))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [tmp_path / "int8.onnx"]
    assert logging.getLogger().handlers == handlers


def spoilt(value: float) -> np.ndarray:
    changed = images(4)
    changed[3, 1, 2, 3] = value
    return changed


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            images(0),
            r"float32 images of shape \[0, 3, 8, 8\]; give at least one float32 image of shape \[3, 8, 8\]",
        ),
        (images(2)[:, :, :7], r"float32 images of shape \[2, 3, 7, 8\]; give"),
        (images(2)[0], r"images of shape \[3, 8, 8\]"),
        (images(2).astype(np.float64), "float64 images"),
        (spoilt(float("nan")), "image from 3 on has NaN or infinity"),
        (spoilt(float("inf")), "image from 3 on has NaN or infinity"),
    ],
)
def test_images_that_do_not_fit(float_model: Path, given: np.ndarray, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        quantize(float_model, given, "int8", "uint8", tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match=says):
        predict(float_model, given)


@pytest.mark.parametrize(
    ("arm", "kind", "says"),
    [
        ("int4", "uint8", "unknown arm 'int4'; choose from int8_ort_default, int8"),
        ("int8", "u8", "unknown activations 'u8'; choose from uint8, int8"),
    ],
)
def test_unknown_words(float_model: Path, arm: str, kind: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        quantize(float_model, images(1), arm, kind, tmp_path / "int8.onnx")


def test_weights_with_nan(float_model: Path, tmp_path: Path) -> None:
    model = onnx.load(float_model)
    weight = next(each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ModelError, match=f"{weight.name} has NaN or infinity"):
        quantize(tmp_path / "nan.onnx", images(1), "int8", "uint8", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_activations_with_nan(tmp_path: Path) -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(x).mean((2, 3)) @ torch.ones(3, 2)

    export_onnx(Root(), images(1), tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="cannot be quantized: "):
        quantize(tmp_path / "float.onnx", images(1), "int8", "uint8", tmp_path / "int8.onnx")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    with pytest.raises(StorageError, match=r"float\.onnx"):
        quantize(path, images(1), "int8", "uint8", tmp_path / "int8.onnx")
    path.write_text("no model")
    with pytest.raises(ModelError, match=r"float\.onnx cannot be quantized: \w+"):
        quantize(path, images(1), "int8", "uint8", tmp_path / "int8.onnx")
    with pytest.raises(ModelError, match=r"float\.onnx cannot be run: "):
        predict(path, images(1))
