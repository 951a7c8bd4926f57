"""Quantized networks: each layer and the whole compute what ONNX Runtime says that the graph means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from tvm import relax

from dlas.algorithms.convolution import Conv2d
from dlas.compression.export import export_onnx
from dlas.compression.quantize import predict, quantize
from dlas.hardware import targets
from dlas.measurement.measure import error_over_scale
from dlas.models import loading
from dlas.systems import passes
from dlas.systems.integer_operators import merge_groups
from dlas.systems.integer_values import Bounds
from dlas.systems.quantized import import_quantized
from dlas.systems.schedules import dots
from dlas.values import ModelSpec, Weights
from tests.systems import isolating
from tests.systems.lowering import AVX2, compile_and_run
from tests.systems.quantizing import draw, relax_quantized

HOST = targets.load("x86").compiler
LITERAL = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def quantized(
    module: nn.Module, shape: tuple[int, ...], folder: Path, arm: str = "int8"
) -> tuple[Path, np.ndarray]:
    """The file of a quantized network, and an input."""
    images = np.random.default_rng(0).standard_normal((4, *shape[1:]), dtype="float32")
    export_onnx(module, images[:1], folder / "float.onnx")
    quantize(folder / "float.onnx", images, arm, "uint8", folder / "model.onnx")
    return folder / "model.onnx", images[:1]


def built_in(name: str, folder: Path, arm: str = "int8") -> tuple[Path, np.ndarray]:
    factories = {
        "resnet18": "dlas.models.resnet:resnet18",
        "mobilenetv2": "dlas.models.mobilenet:mobilenetv2",
    }
    spec = ModelSpec(name, factories[name], (1, 3, 32, 32), (("width", 8),))
    return quantized(loading.load(spec, Weights("untrained")).module, spec.input_shape, folder, arm)


@pytest.mark.parametrize("arm", ["int8", "int8_ort_default"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_each_layer_is_that_of_onnx_runtime(name: str, arm: str, tmp_path: Path) -> None:
    """At most one output in 10,000 is off, by one step: the float32 sums of its graph are inexact."""
    path, _ = built_in(name, tmp_path, arm)
    layers = list(isolating.layers(onnx.load(path)))
    assert len(layers) >= 20
    total = off = 0
    for number, (_, model, scale) in enumerate(layers):
        if number % 3:
            continue
        shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(number).standard_normal(shape, dtype="float32")
        file = tmp_path / "layer.onnx"
        file.write_bytes(model.SerializeToString())
        ours = compile_and_run(import_quantized(file, x).mod, "direct", "scheduled", x, AVX2, "int8")
        steps = np.rint((ours - isolating.run(model, x, LITERAL)) / scale)
        assert np.abs(steps).max() <= 1
        total, off = total + steps.size, off + int(np.abs(steps).sum())
    assert off <= max(1, total / 10_000)


class Everything(nn.Module):
    """Concatenation, batch norm after it, pools, SiLU, squeeze and excitation, groups, flattened pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.SiLU())
        self.grouped = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=3), nn.ReLU6())
        self.norm = nn.BatchNorm2d(24)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 4, 1), nn.ReLU(), nn.Conv2d(4, 24, 1)
        )
        self.last = nn.Linear(24 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu(self.norm(torch.cat([x, self.grouped(x)], 1)))
        x = nn.functional.max_pool2d(x, 2)
        x = x * torch.sigmoid(self.squeeze(x))
        x = nn.functional.avg_pool2d(x, 2)
        return torch.softmax(self.last(x.flatten(1)), 1)


@pytest.mark.parametrize("arm", ["int8", "int8_ort_default"])
def test_a_network_of_every_operator_computes_what_its_graph_means(arm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Everything().eval()
    nn.init.normal_(module.norm.weight, 1.0)
    path, x = quantized(module, (1, 3, 8, 8), tmp_path, arm)
    mod = import_quantized(path, x).mod
    _, found = passes.lower(mod, "spatial_pack", "scheduled", AVX2, "int8")
    assert (found.total, found.integer, found.as_asked, found.fallbacks) == (4, 4, 4, ())
    output = compile_and_run(mod, "spatial_pack", "scheduled", x, AVX2, "int8")
    assert error_over_scale(output, predict(path, x)) < 0.02


class Tables(nn.Module):
    """A function of one byte, before and after what is no function of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.first(x))
        pooled = nn.functional.max_pool2d(y, 3, 1, 1)
        return self.second(torch.sigmoid(pooled) * torch.tanh(y)).flatten(1)


class AlongColumns(nn.Module):
    """A constant of as many columns as there are channels is no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.register_buffer("ramp", torch.linspace(-1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + self.ramp).flatten(1)


def sequence(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules, nn.Flatten(1))


ODD = {
    "tables": Tables,
    "along columns": AlongColumns,
    "hardswish": lambda: sequence(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3)),
    "clip first": lambda: sequence(nn.ReLU6(), nn.Conv2d(3, 8, 3)),
    "reflected": lambda: sequence(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3)),
    "pooled to 3x3": lambda: sequence(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(3), nn.Conv2d(8, 4, 1)),
    "pools that overlap the edge": lambda: sequence(
        nn.Conv2d(3, 8, 2), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.MaxPool2d(2)
    ),
    "flattened vector": lambda: sequence(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Sigmoid(), nn.Flatten(), nn.Tanh(), nn.Linear(8, 5)
    ),
    "channels that fill no vector": lambda: sequence(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 40, 1), nn.ReLU(), nn.Conv2d(40, 10, 1)
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_networks_compute_what_their_graphs_mean(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    path, x = quantized(ODD[name]().eval(), (1, 3, 8, 8), tmp_path)
    output = compile_and_run(import_quantized(path, x).mod, "direct", "scheduled", x, HOST, "int8")
    assert error_over_scale(output, predict(path, x)) < 0.01


def test_a_sum_of_ties_with_an_odd_zero_point_is_exact() -> None:
    """Scales that are powers of two: every other sum lies half-way between two integers."""
    x = (np.arange(-96, 96, dtype="float32") / 4).reshape(1, 3, 8, 8)
    builder = relax.BlockBuilder()
    var = relax.Var("x", relax.TensorType(x.shape, "float32"))

    def rounded(value: relax.Expr, scale: float, zero: int) -> relax.Expr:
        pair = relax.const(np.float32(scale), "float32"), relax.const(np.uint8(zero))
        made = builder.emit(relax.op.quantize(value, *pair, 1, "uint8"))
        return builder.emit(relax.op.dequantize(made, *pair, 1, "float32"))

    with builder.function("main", [var]):
        with builder.dataflow():
            total = builder.emit(relax.op.add(rounded(var, 0.25, 117), rounded(var, 0.5, 101)))
            output = builder.emit_output(rounded(builder.emit(relax.op.nn.relu(total)), 0.5, 33))
        builder.emit_func_output(output)
    a = np.clip(np.rint(x / 0.25) + 117, 0, 255) - 117
    b = np.clip(np.rint(x / 0.5) + 101, 0, 255) - 101
    expected = np.clip(np.rint(np.maximum(a * 0.25 + b * 0.5, 0) / 0.5) + 33, 0, 255) - 33
    actual = compile_and_run(builder.get(), "direct", "scheduled", x, AVX2, "int8")
    assert np.array_equal(actual, expected * 0.5)


def test_bounds_are_those_of_one_after_the_other() -> None:
    assert Bounds().within(0, np.inf).within(-6, -1) == Bounds(-1, -1)
    assert Bounds().within(0, 6).within(2, np.inf) == Bounds(2, 6)


def test_sums_that_int32_cannot_hold_are_left_to_float32() -> None:
    conv = Conv2d(1, 70_000, 1, 1, 2, 1, 1)
    _, found = passes.lower(relax_quantized(draw(conv)), "direct", "scheduled", AVX2, "int8")
    assert (found.total, found.integer, found.as_asked) == (1, 0, 0)
    assert found.arithmetic == "float32"
    assert found.fallbacks == ("conv2d: float32, its input or weights are not 8-bit integers",)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_a_whole_network_computes_what_its_graph_means(name: str, tmp_path: Path) -> None:
    path, x = built_in(name, tmp_path)
    mod = import_quantized(path, x).mod
    _, found = passes.lower(mod, "gemm", "scheduled", AVX2, "int8")
    assert found.integer == found.total == found.as_asked + found.depthwise
    output = compile_and_run(mod, "gemm", "scheduled", x, AVX2, "int8")
    assert error_over_scale(output, predict(path, x)) < 0.1


def test_weights_that_a_dot_product_cannot_take_are_left_to_float32() -> None:
    """-128 twice with an input of -128 is more than 16 bits hold on Arm."""
    case = draw(Conv2d(1, 8, 5, 5, 16, 3, 3))
    case.weight[0, 0, 0, 0] = -128
    mod = relax_quantized(case)
    _, found = passes.lower(mod, "direct", "scheduled", AVX2, "int8")
    assert (found.total, found.as_asked, found.integer) == (1, 0, 0)
    output = compile_and_run(mod, "direct", "scheduled", case.floats, AVX2, "int8")
    assert np.abs(case.steps(output) - case.expected()).max() <= 1


def test_merged_groups_are_the_same_convolution() -> None:
    conv = Conv2d(1, 12, 4, 4, 12, 1, 1, groups=6)
    filters = np.arange(1, 25, dtype="int8").reshape(12, 2, 1, 1)
    merged, wide = merge_groups(conv, filters, dots.NEON)
    assert (merged.groups, wide.shape) == (3, (12, 4, 1, 1))
    assert wide[2, :, 0, 0].tolist() == [0, 0, 5, 6]
    assert wide[4, :, 0, 0].tolist() == [9, 10, 0, 0]


def test_the_share_of_zeros_is_that_of_the_weights_inside() -> None:
    case = draw(Conv2d(1, 8, 5, 5, 16, 3, 3))
    case.weight[:4] = 0
    case.weight[4:][case.weight[4:] == 0] = 1
    _, found = passes.lower(relax_quantized(case), "direct", "scheduled", AVX2, "int8")
    assert found.weight_sparsity_fraction == 0.25


def test_no_tensor_between_integer_kernels_is_float32(tmp_path: Path) -> None:
    path, x = built_in("resnet18", tmp_path)
    lowered, _ = passes.lower(import_quantized(path, x).mod, "direct", "scheduled", AVX2, "int8")
    results = [
        binding.var.ty
        for block in lowered["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and "integer" in str(binding.value.args[0])
    ]
    images = [result for result in results if len(result.shape) == 4 and int(result.shape[1]) > 4]
    assert len(images) >= 15
    assert {str(image.dtype) for image in images} == {"uint8"}
