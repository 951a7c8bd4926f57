"""Channels in blocks: what lies between convolutions stays in them, and all is computed as before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn
from tvm import relax

from dlas.models.loading import load
from dlas.systems import census, layout, passes
from dlas.systems.export import generate
from dlas.systems.frontend import to_relax
from dlas.values import ModelSpec, Weights
from tests.systems.lowering import AVX2


class Small(nn.Module):
    """Two convolutions of 16 channels with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.between = between
        self.last = nn.Conv2d(channels, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


CONSTANT = torch.linspace(-1, 1, 16).reshape(1, 16, 1, 1)
BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "swish": nn.functional.silu,
    "clip": lambda x: torch.clamp(x, 0, 6),
    "scaled by channel": lambda x: x * CONSTANT,
    "shifted by channel, without a batch axis": lambda x: x + CONSTANT[0],
    "scaled by a number": lambda x: 2 * x - 1,
    "added to itself": lambda x: x + torch.relu(x),
    "max pool": lambda x: nn.functional.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: nn.functional.avg_pool2d(x, 2),
    "squeezed and excited": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
}
NOT_IN_BLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax over channels": lambda x: torch.softmax(x, 1),
    "a map that is constant": lambda x: x + torch.arange(64.0).reshape(1, 1, 8, 8),
    "channels shuffled": lambda x: x.reshape(1, 4, 4, 8, 8).transpose(1, 2).reshape(1, 16, 8, 8),
}


def import_small(module: nn.Module) -> tuple[tvm.IRModule, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        return to_relax(module.eval(), x.numpy()), x.numpy(), module(x).numpy()


def run(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    lowered, _ = passes.lower(mod, "direct", "scheduled", AVX2, format="blocked")
    machine = relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def operators(mod: tvm.IRModule) -> Counter[str]:
    values = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    return Counter(str(value.op.name) for value in values if isinstance(value, relax.Call))


@pytest.mark.parametrize("between", BETWEEN)
def test_what_lies_between_convolutions_stays_in_blocks(between: str) -> None:
    mod, x, expected = import_small(Small(BETWEEN[between]))
    blocked = layout.block_channels(mod, 8)
    assert operators(blocked)["relax.permute_dims"] == 1  # back to NCHW, behind the last
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


@pytest.mark.parametrize("between", NOT_IN_BLOCKS)
def test_what_knows_no_blocks_gets_nchw(between: str) -> None:
    mod, x, expected = import_small(Small(NOT_IN_BLOCKS[between]))
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_what_is_broadcast_over_rows_or_columns_alone_meets_a_map_that_was_one_row(axis: int) -> None:
    """Behind a pointwise convolution, which takes its map as one row."""
    last = Small(lambda y: y * torch.sigmoid(y.mean(axis, keepdim=True)))
    last.first = nn.Conv2d(16, 16, 1)
    mod, x, expected = import_small(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), last))
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_a_concatenation_of_whole_blocks_stays_in_blocks() -> None:
    mod, x, expected = import_small(Small(lambda y: torch.cat([y, torch.relu(y)], 1), channels=32))
    assert operators(layout.block_channels(mod, 8))["relax.permute_dims"] == 1
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_a_concatenation_is_cut_where_its_parts_end() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (
                nn.Conv2d(c, 8 * n, 1) for n, c in ((1, 3), (2, 8), (3, 16))
            )
            self.norm, self.last = nn.BatchNorm2d(48), nn.Conv2d(48, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.first(x)
            b = self.second(a)
            return self.last(torch.relu(self.norm(torch.cat([a, b, self.third(b)], 1))))

    mod, x, expected = import_small(Dense())
    lowered, _ = passes.lower(mod, "direct", "scheduled", AVX2, format="blocked")
    [name] = [name for name in census.called_functions(lowered) if "concatenate" in name]
    script = lowered[name].script()
    assert [int(n) for n in re.findall(r"range\(T.int64\((\d)\), T.int64\(\d\)\)", script)] == [1, 3]
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_a_concatenation_with_a_part_of_a_block_is_right() -> None:
    mod, x, expected = import_small(Small(lambda y: torch.cat([y, y[:, :4]], 1), channels=20))
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_a_value_with_both_kinds_of_readers_is_there_in_both_layouts() -> None:
    mod, x, expected = import_small(Small(lambda y: y * torch.softmax(y, 1)))
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_channels_that_make_no_block_stay_nchw() -> None:
    mod, x, expected = import_small(nn.Conv2d(3, 12, 3))
    assert "relax.permute_dims" not in operators(layout.block_channels(mod, 8))
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)
    found = passes.lower(mod, "direct", "scheduled", AVX2, format="blocked")[1]
    assert (found.total, found.as_asked, found.layout) == (1, 0, "nchw")
    assert found.fallbacks == ("conv2d: its channels do not fill blocks",)


def test_a_row_names_each_convolution_that_is_in_no_blocks() -> None:
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 12, 3),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.Conv2d(12, 16, 1),
    )
    mod, x, expected = import_small(nn.Sequential(*layers))
    found = passes.lower(mod, "direct", "scheduled", AVX2, format="blocked")[1]
    assert (found.total, found.as_asked, found.layout) == (4, 1, "nchw8c")
    assert len(found.fallbacks) == 3
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_a_map_of_no_batch_that_is_no_constant_gets_nchw() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3)
            self.shift = nn.Parameter(torch.randn(16, 6, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return y + torch.relu(y.mean(0) + self.shift)

    mod, x, expected = import_small(Shifted())
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


def test_a_pointwise_convolution_with_strides_reads_what_it_keeps_as_one_row() -> None:
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 1, stride=2), nn.Conv2d(32, 8, 3))
    mod, x, expected = import_small(nn.Sequential(*layers))
    assert operators(layout.block_channels(mod, 8))["relax.strided_slice"] == 1
    found = passes.list_workloads(mod, "direct", "blocked", AVX2)
    assert [(each.conv.pointwise, each.conv.H) for each in found][1] == (True, 1)
    np.testing.assert_allclose(run(mod, x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2", "efficientnetb0"])
def test_a_network_has_no_conversion_between_its_layers(name: str) -> None:
    spec = ModelSpec(name, f"dlas.models.imagenet:{name}", (1, 3, 64, 64), (("classes", 10),))
    model = load(spec, Weights("untrained"))
    mod = to_relax(model.module, model.input)
    lowered, found = passes.lower(mod, "direct", "scheduled", AVX2, format="blocked")
    assert found.layout == "nchw8c"
    assert found.fallbacks == ()
    assert found.as_asked + found.depthwise == found.total
    assert not [kernel for kernel in census.called_functions(lowered) if "transpose" in kernel]
    machine = relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())
    output = machine["main"](tvm.runtime.tensor(model.input)).numpy()
    assert np.abs(output - model.output).max() < 1e-4 * np.abs(model.output).max()


def test_sigmoid_is_exact_to_a_few_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-120, 120, 100_000), [0.0, -0.0, 1e-30, 1e4, -1e4]]).astype("float32")
    module = nn.Sigmoid()
    mod = to_relax(module, x)
    lowered, _ = passes.lower(mod, "direct", "scheduled", AVX2)
    machine = relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())
    actual = machine["main"](tvm.runtime.tensor(x)).numpy()
    expected = 1 / (1 + np.exp(-x.astype("float64").clip(-700, 700)))  # else it warns of an overflow
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-37)
