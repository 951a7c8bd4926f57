"""Whatever PyTorch convolves, Relax computes the same, and no batch norm is left to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from tvm import relax

from dlas.errors import ModelError
from dlas.models.loading import load
from dlas.systems.frontend import to_relax
from dlas.values import ModelSpec, Weights

IMAGE = (1, 6, 9, 10)
LINE = (2, 6, 13)
VOLUME = (1, 4, 5, 6, 7)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers on busy cores: PyTorch's threads would wait for each other far longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Fn(nn.Module):
    """A function of the input and some modules."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.parts)


def standardised(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution whose weights are a computation over parameters."""
    axes = (1, 2, 3)
    weight = conv.weight - conv.weight.mean(axes, keepdim=True)
    return F.conv2d(x, weight / (weight.std(axes, keepdim=True) + 1e-5), conv.bias, padding=1)


def dynamic(x: Tensor, linear: nn.Linear) -> Tensor:
    """A convolution whose weights are computed from its input."""
    return F.conv2d(x, linear(x.mean((2, 3))).reshape(8, 6, 3, 3))


def own_statistics(x: Tensor) -> Tensor:
    return F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3)))


def shared() -> nn.Module:
    conv, norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
    return nn.Sequential(conv, norm, nn.ReLU(), conv, norm)


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "stride of two kinds": (lambda: nn.Conv2d(6, 8, 3, stride=(2, 1)), IMAGE),
    "padding of two kinds": (lambda: nn.Conv2d(6, 8, (3, 5), padding=(1, 2)), IMAGE),
    "padding larger than the kernel": (lambda: nn.Conv2d(6, 5, 3, padding=7), IMAGE),
    "padding valid": (lambda: nn.Conv2d(6, 8, 3, padding="valid"), IMAGE),
    "padding same, odd kernel": (lambda: nn.Conv2d(6, 8, (3, 5), padding="same"), IMAGE),
    "padding same, even kernel": (lambda: nn.Conv2d(6, 8, (2, 4), padding="same"), IMAGE),
    "padding same, dilated": (lambda: nn.Conv2d(6, 8, (4, 3), padding="same", dilation=(1, 2)), IMAGE),
    "padding apart": (
        lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(6, 8, 3, padding=1)),
        IMAGE,
    ),
    "padding of ones": (lambda: nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.Conv2d(6, 8, 3)), IMAGE),
    "reflect": (lambda: nn.Conv2d(6, 8, 3, padding=(1, 2), padding_mode="reflect"), IMAGE),
    "replicate": (lambda: nn.Conv2d(6, 8, 3, padding=(1, 2), padding_mode="replicate"), IMAGE),
    "circular": (lambda: nn.Conv2d(6, 8, 3, padding=(1, 2), padding_mode="circular"), IMAGE),
    "reflect, same, even": (lambda: nn.Conv2d(6, 8, 2, padding="same", padding_mode="reflect"), IMAGE),
    "dilation": (lambda: nn.Conv2d(6, 8, 3, dilation=(2, 1), bias=False), IMAGE),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3), IMAGE),
    "depthwise, two for one": (lambda: nn.Conv2d(6, 12, 3, groups=6, padding=1), IMAGE),
    "one output pixel": (lambda: nn.Conv2d(6, 5, (9, 10)), IMAGE),
    "batch of three": (lambda: nn.Conv2d(6, 8, 3), (3, 6, 9, 10)),
    "no batch": (lambda: nn.Conv2d(6, 8, 3), (6, 9, 10)),
    "channels last": (lambda: nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last), IMAGE),
    "computed weights": (lambda: Fn(standardised, nn.Conv2d(6, 8, 3)), IMAGE),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3)), IMAGE),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(6, 8, 3)), IMAGE),
    "weights from the data": (lambda: Fn(dynamic, nn.Linear(6, 432)), IMAGE),
    "1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2), LINE),
    "1d, groups, same, even": (lambda: nn.Conv1d(6, 8, 4, groups=2, padding="same"), LINE),
    "1d, circular": (lambda: nn.Conv1d(6, 8, 3, padding=2, padding_mode="circular"), LINE),
    "1d, no batch": (lambda: nn.Conv1d(6, 8, 3), LINE[1:]),
    "3d": (
        lambda: nn.Conv3d(4, 6, (3, 2, 3), (1, 2, 1), padding=(1, 0, 2), dilation=(1, 1, 2), groups=2),
        VOLUME,
    ),
    "3d, same, even": (lambda: nn.Conv3d(4, 6, (2, 3, 4), padding="same"), VOLUME),
    "transposed": (
        lambda: nn.ConvTranspose2d(6, 8, 3, stride=(2, 3), padding=1, output_padding=(1, 2)),
        IMAGE,
    ),
    "transposed, groups": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2, dilation=2), IMAGE),
    "transposed, output padding of a stride": (
        lambda: nn.ConvTranspose2d(6, 8, 3, dilation=3, padding=1, output_padding=(2, 1)),
        IMAGE,
    ),
    "transposed, padded beyond its kernel": (lambda: nn.ConvTranspose2d(6, 8, 3, padding=3), IMAGE),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 8, 3, stride=2, groups=2), LINE),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 3, 2, padding=1, output_padding=1, groups=2), VOLUME),
}

# What is left of a batch norm: operators after the front end.
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    "after a convolution": (
        lambda: nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)),
        IMAGE,
        {"nn.conv2d": 1, "add": 1},
    ),
    "after a bias": (
        lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        IMAGE,
        {"nn.conv2d": 1, "add": 1, "nn.relu": 1},
    ),
    "after groups": (
        lambda: nn.Sequential(nn.Conv2d(6, 12, 3, groups=3), nn.BatchNorm2d(12)),
        IMAGE,
        {"nn.conv2d": 1, "add": 1},
    ),
    "large epsilon": (
        lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8, eps=0.5, momentum=None)),
        IMAGE,
        {"nn.conv2d": 1, "add": 1},
    ),
    "no scale and shift": (
        lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8, affine=False)),
        IMAGE,
        {"nn.conv2d": 1, "add": 1},
    ),
    "computed weights": (
        lambda: nn.Sequential(Fn(standardised, nn.Conv2d(6, 8, 3)), nn.BatchNorm2d(8)),
        IMAGE,
        {"nn.conv2d": 1, "add": 1},
    ),
    "shared convolution and norm": (shared, IMAGE, {"nn.conv2d": 2, "add": 2, "nn.relu": 1}),
    "after 1d": (
        lambda: nn.Sequential(nn.Conv1d(6, 8, 4, padding="same"), nn.BatchNorm1d(8)),
        LINE,
        {"expand_dims": 1, "nn.conv2d": 1, "squeeze": 1, "add": 1},
    ),
    "after 3d": (
        lambda: nn.Sequential(nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)),
        VOLUME,
        {"nn.conv3d": 1, "add": 1},
    ),
    "before a convolution": (
        lambda: nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False)),
        IMAGE,
        {"multiply": 1, "add": 1, "nn.relu": 1, "nn.conv2d": 1},
    ),
    "output of the convolution used twice": (
        lambda: Fn(
            lambda x, conv, norm: norm(y := conv(x)) * y, nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)
        ),
        IMAGE,
        {"nn.conv2d": 1, "multiply": 2, "add": 1},
    ),
    "output of the bias used twice": (
        lambda: Fn(lambda x, conv, norm: norm(y := conv(x)) * y, nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)),
        IMAGE,
        {"nn.conv2d": 1, "multiply": 2, "add": 2},
    ),
    "a constant that is no bias between": (
        lambda: Fn(
            lambda x, conv, norm, row: norm(conv(x) + row.weight),
            nn.Conv2d(6, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.Linear(8, 1),
        ),
        IMAGE,
        {"nn.conv2d": 1, "multiply": 1, "add": 2},
    ),
    "norm of a norm": (
        lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)),
        IMAGE,
        {"nn.conv2d": 1, "multiply": 1, "add": 2},
    ),
    "after a transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)),
        IMAGE,
        {"nn.conv2d_transpose": 1, "multiply": 1, "add": 1},
    ),
    "weights from the data": (
        lambda: nn.Sequential(Fn(dynamic, nn.Linear(6, 432)), nn.BatchNorm2d(8)),
        IMAGE,
        {"mean": 1, "matmul": 1, "reshape": 1, "nn.conv2d": 1, "multiply": 1, "add": 2},
    ),
    "after a linear layer": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(540, 8, bias=False), nn.BatchNorm1d(8)),
        IMAGE,
        {"reshape": 1, "matmul": 1, "multiply": 1, "add": 1},
    ),
}


def operators(module: tvm.IRModule) -> Counter[str]:
    """Names of the operators of main, without their prefix."""
    bindings = [binding for block in module["main"].body.blocks for binding in block.bindings]
    calls = [binding.value for binding in bindings if isinstance(binding.value, relax.Call)]
    return Counter(call.op.name.removeprefix("relax.") for call in calls)


def seeded(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A network in eval mode, its batch norms far from neutral, and an input."""
    torch.manual_seed(0)
    module = make().eval()
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)
    return module, torch.randn(shape)


def execute(module: tvm.IRModule, array: np.ndarray) -> np.ndarray:
    """What TVM computes without any schedule of ours."""
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    output: np.ndarray = machine["main"](tvm.runtime.tensor(array)).numpy()
    return output


def assert_same(output: np.ndarray, oracle: np.ndarray) -> None:
    assert output.shape == oracle.shape
    assert np.abs(output - oracle).max() < 1e-5 * np.abs(oracle).max()


def imported(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tvm.IRModule:
    """The network in Relax, after a check that it computes what PyTorch does."""
    module, x = seeded(make, shape)
    with torch.no_grad():
        oracle = module(x).numpy()
    relaxed = to_relax(module, x.numpy())
    assert_same(execute(relaxed, x.numpy()), oracle)
    return relaxed


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_any_convolution_computes_what_pytorch_does(name: str) -> None:
    make, shape = CONVOLUTIONS[name]
    kinds = Counter({kind: n for kind, n in operators(imported(make, shape)).items() if "conv" in kind})
    dimensions = "3d" if "3d" in name else "1d" if "transposed 1d" in name else "2d"
    transposed = "_transpose" if "transposed" in name else ""
    assert kinds == {f"nn.conv{dimensions}{transposed}": 1}


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_is_folded_or_one_scale_and_shift(name: str) -> None:
    make, shape, expected = NORMS[name]
    assert operators(imported(make, shape)) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fn(own_statistics),
        lambda: nn.BatchNorm2d(6, track_running_stats=False),
    ],
)
def test_a_norm_over_the_data_is_no_batch_norm_either(make: Callable[[], nn.Module]) -> None:
    assert "nn.batch_norm" not in operators(imported(make, IMAGE))


@pytest.mark.parametrize("name", ["reflect", "replicate"])
def test_padding_reads_by_constant_indices(name: str) -> None:
    make, shape = CONVOLUTIONS[name]
    module, x = seeded(make, shape)
    assert operators(to_relax(module, x.numpy())) == {"take": 2, "nn.conv2d": 1, "add": 1}


@pytest.mark.parametrize("name", ["padding same, odd kernel", "padding same, even kernel", "padding apart"])
def test_zero_padding_is_part_of_the_convolution(name: str) -> None:
    make, shape = CONVOLUTIONS[name]
    module, x = seeded(make, shape)
    assert operators(to_relax(module, x.numpy())) == {"nn.conv2d": 1, "add": 1}


@pytest.mark.parametrize(
    ("factory", "convolutions", "sums"),
    [
        ("resnet:resnet18", 20, 20 + 8 + 1),
        ("vgg:vgg16", 13, 13 + 1),
        ("mobilenet:mobilenetv1", 27, 27 + 1),
        ("mobilenet:mobilenetv2", 57, 57 + 14 + 1),
    ],
)
def test_the_networks_compute_what_pytorch_does(factory: str, convolutions: int, sums: int) -> None:
    spec = ModelSpec("narrow", f"dlas.models.{factory}", (1, 3, 32, 32), (("width", 8),))
    model = load(spec, Weights("untrained"))
    relaxed = to_relax(model.module, model.input)
    found = operators(relaxed)
    assert (found["nn.conv2d"], found["add"], found["multiply"]) == (convolutions, sums, 0)
    rest = {"nn.relu", "nn.max_pool2d", "mean", "reshape", "matmul"}
    assert set(found) <= {"nn.conv2d", "add"} | rest
    assert_same(execute(relaxed, model.input), model.output)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.fft.rfft2(x).abs(), "TVM has no operator for '_fft_r2c.default'; write the network"),
        (lambda x: x[x > 0], "TVM cannot import it: TypeError: Take op requires"),
        (lambda x: x * 2 if x.sum() > 0 else x, "torch.export cannot export Fn: .*; write forward without"),
        (lambda x: (x, x + 1), "Fn does not return one tensor; return one tensor from forward"),
    ],
)
def test_what_cannot_be_imported_says_so_in_one_line(
    function: Callable[[Tensor], Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        to_relax(Fn(function), np.ones(IMAGE, "float32"))
    assert "\n" not in str(caught.value)
    printed = capfd.readouterr()
    assert "def forward" not in printed.out + printed.err
