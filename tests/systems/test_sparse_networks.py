"""Whole networks in sparse formats: what they compute, and which layers `auto` leaves dense."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from dlas.algorithms.convolution import Conv2d
from dlas.compression.prune import prune_channels, prune_uniformly, prune_weights
from dlas.models.mobilenet import mobilenetv2
from dlas.models.resnet import resnet18
from dlas.models.vgg import vgg16
from dlas.systems import census, passes, sparse
from dlas.systems.export import generate
from dlas.systems.frontend import import_network
from dlas.values import Compiler
from tests.systems.lowering import AVX2, AVX512, NEON

NETWORKS = {
    "resnet18": lambda: resnet18(width=16),
    "mobilenetv2": lambda: mobilenetv2(width=8),
    "vgg16": lambda: vgg16(width=16),
}


def pruned(name: str, technique: str, level: float) -> torch.nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        if technique == "weight":
            prune_weights(network, level)
        elif technique == "channel":
            prune_channels(network, x, level)
        else:
            prune_uniformly(network, x, level)
    return network


@pytest.mark.parametrize(
    ("name", "technique", "algorithm", "format"),
    [
        ("resnet18", "weight", "direct", "csr_packed"),
        ("resnet18", "channel", "spatial_pack", "csr"),
        ("mobilenetv2", "uniform", "gemm", "csr_packed"),
        ("mobilenetv2", "weight", "direct", "auto"),
        ("vgg16", "uniform", "gemm", "csr"),
        ("vgg16", "channel", "direct", "csr_packed"),
    ],
)
def test_a_sparse_network_computes_what_pytorch_does(
    name: str, technique: str, algorithm: str, format: str
) -> None:
    network = pruned(name, technique, 0.4 if technique == "channel" else 0.9)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), "float32")
    with torch.no_grad():
        oracle = network(torch.from_numpy(x)).numpy()
    lowered, found = passes.lower(import_network(network, x).mod, algorithm, "scheduled", AVX2, format=format)
    machine = relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())
    output = machine["main"](tvm.runtime.tensor(x)).numpy()
    assert np.abs(output - oracle).max() < 1e-4 * np.abs(oracle).max()
    assert found.fallbacks == ()
    assert found.as_asked + found.depthwise == found.total
    assert found.weight_sparsity_fraction > 0.25
    if name == "resnet18":  # bias, residual and ReLU are part of the kernel
        kernels = census.called_functions(lowered)
        assert any(re.fullmatch(r"fused_conv2d_csr\w*_add\d*_add\d*_relu\d*", kernel) for kernel in kernels)


def filter_of(conv: Conv2d, density: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (conv.CO, conv.CG, conv.KH, conv.KW)
    return (rng.random(shape) < density).astype("float32")


LAYERS = (
    Conv2d(1, 64, 32, 32, 64, 3, 3, padding=(1, 1, 1, 1)),
    Conv2d(1, 512, 4, 4, 512, 3, 3, padding=(1, 1, 1, 1)),
    Conv2d(1, 256, 56, 56, 64, 1, 1),
    Conv2d(1, 24, 56, 56, 144, 1, 1),
)


@pytest.mark.parametrize("compiler", [AVX2, AVX512, NEON], ids=["avx2", "avx512", "neon"])
@pytest.mark.parametrize("conv", LAYERS, ids=str)
def test_auto_takes_dense_for_dense_filters_and_sparse_for_sparse_ones(
    conv: Conv2d, compiler: Compiler
) -> None:
    chosen = [
        sparse.choose_format(filter_of(conv, density), conv, compiler, "direct")
        for density in (1.0, 0.9, 0.5, 0.2, 0.05, 0.0)
    ]
    assert chosen[0] == "dense"
    assert chosen[-2:] == ["csr_packed"] * 2
    assert chosen == sorted(chosen, reverse=True)  # once sparse pays, more zeros keep it so


def test_one_output_is_left_dense() -> None:
    """A vector of one position would be one of eight lanes."""
    conv = Conv2d(1, 480, 1, 1, 20, 1, 1)
    assert sparse.choose_format(filter_of(conv, 0.3), conv, AVX2, "direct") == "dense"


def test_more_nonzeros_are_never_estimated_to_be_faster() -> None:
    for conv in LAYERS:
        total = conv.CO * conv.CG * conv.KH * conv.KW
        estimates = []
        for nonzeros in range(0, total, total // 12):
            tile = sparse.choose_tile(conv, AVX2, "direct", nonzeros, is_packed=True)
            estimates.append(sparse.estimate_cycles(conv, tile, "direct", nonzeros))
        assert estimates == sorted(estimates)
