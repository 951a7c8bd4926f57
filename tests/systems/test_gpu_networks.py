"""Whole networks on a GPU: what they compute on PoCL, and that they compile for a Mali and a Xavier."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dlas.compression.prune import prune_uniformly
from dlas.hardware import targets
from dlas.hardware.device import LocalDevice
from dlas.models import imagenet
from dlas.models.mobilenet import mobilenetv1, mobilenetv2
from dlas.models.resnet import resnet18
from dlas.models.vgg import vgg16
from dlas.systems import cubin, passes
from dlas.systems.export import export, generate
from dlas.systems.frontend import Imported, import_network
from dlas.values import Job, Target

MALI, XAVIER = targets.load("hikey970_opencl"), targets.load("xavier_cuda")
POCL = targets.load("opencl_pocl")
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}  # of the largest output
NETWORKS = {
    "resnet18": lambda: resnet18(width=16),
    "mobilenetv1": lambda: mobilenetv1(width=8),
    "mobilenetv2": lambda: mobilenetv2(width=8),
    "vgg16": lambda: vgg16(width=16),
    "resnet50": lambda: imagenet.resnet50(10),
    "densenet161": lambda: imagenet.densenet161(10),
    "efficientnetb0": lambda: imagenet.efficientnetb0(10),
    "imagenet_mobilenetv2": lambda: imagenet.mobilenetv2(10),
}


@dataclass(frozen=True)
class Case:
    network: str
    algorithm: str
    format: str
    precision: str
    schedule: str

    def __str__(self) -> str:
        return "-".join(vars(self).values())


# Each network, between them each pair of an algorithm, a format, a precision and a schedule.
CASES = [
    Case("resnet18", "direct", "dense", "fp32", "scheduled"),
    Case("resnet18", "gemm", "ell", "fp16", "scheduled"),
    Case("resnet18", "spatial_pack", "auto", "fp32", "minimal"),
    Case("mobilenetv1", "gemm", "dense", "fp32", "minimal"),
    Case("mobilenetv1", "direct", "ell", "fp16", "minimal"),
    Case("mobilenetv2", "spatial_pack", "dense", "fp16", "scheduled"),
    Case("mobilenetv2", "gemm", "auto", "fp32", "scheduled"),
    Case("vgg16", "spatial_pack", "ell", "fp32", "scheduled"),
    Case("vgg16", "direct", "auto", "fp16", "scheduled"),
    Case("resnet50", "gemm", "dense", "fp32", "scheduled"),
    Case("efficientnetb0", "direct", "dense", "fp32", "scheduled"),
    Case("imagenet_mobilenetv2", "spatial_pack", "ell", "fp16", "minimal"),
    Case("densenet161", "direct", "dense", "fp32", "scheduled"),
]


def network_of(case: Case) -> tuple[Imported, np.ndarray]:
    """The network, and its output by PyTorch. In a sparse format, most of its weights are zero."""
    torch.manual_seed(0)
    network = NETWORKS[case.network]()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the average: what is no average shrinks from layer to layer, to nothing
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 32, 32))
    network.eval()
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), "float32")
    with torch.no_grad():
        if case.format != "dense":
            prune_uniformly(network, torch.from_numpy(x), 0.9)
        return import_network(network, x), network(torch.from_numpy(x)).numpy()


@pytest.mark.opencl
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_network_computes_what_pytorch_does(case: Case, pocl: LocalDevice, tmp_path: Path) -> None:
    imported, oracle = network_of(case)
    lowered, found = passes.lower(
        imported.mod, case.algorithm, case.schedule, POCL.compiler, case.precision, case.format
    )
    assert found.fallbacks == ()
    assert found.as_asked + found.depthwise == found.total
    assert bool(found.sparse) == (case.format != "dense")
    export(lowered, POCL.compiler, tmp_path / "model.so")
    job = Job(tmp_path / "model.so", imported.x[None], oracle.shape, threads=1, repeats=2, warmups=1)
    result = pocl.run(replace(job, timeout_s=300))
    error = np.abs(result.outputs[0] - oracle).max() / np.abs(oracle).max()
    assert error < TOLERANCE[case.precision]
    assert "Portable Computing Language" in result.gpu


@pytest.mark.parametrize(
    ("name", "algorithm", "precision"),
    [
        ("resnet18", "direct", "fp32"),
        ("resnet18", "gemm", "fp16"),
        ("resnet18", "spatial_pack", "fp32"),
        ("mobilenetv2", "direct", "fp16"),
        ("vgg16", "gemm", "fp32"),
        ("vgg16", "spatial_pack", "fp16"),
    ],
)
def test_no_kernel_of_a_xavier_spills(
    name: str, algorithm: str, precision: str, assembled: list[cubin.Cubin]
) -> None:
    imported, _ = network_of(Case(name, algorithm, "dense", precision, "scheduled"))
    lowered, found = passes.lower(imported.mod, algorithm, "scheduled", XAVIER.compiler, precision)
    generate(lowered, XAVIER.compiler)
    [made] = assembled
    assert made.code.startswith(b"\x7fELF")
    assert made.code[48] == 72  # the architecture, in the flags of the ELF header
    words = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    frames = re.findall(words, made.log)
    assert len(frames) > found.total / 4  # kernels of layers of one shape are one
    assert {int(size) for sizes in frames for size in sizes} == {0}


@pytest.mark.parametrize(
    ("case", "target"),
    [
        *((case, MALI) for case in CASES[:8:2]),
        *((case, XAVIER) for case in CASES if case.format != "dense" and case.network == "resnet18"),
        (CASES[8], XAVIER),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_a_network_compiles_without_a_fallback(case: Case, target: Target) -> None:
    imported, _ = network_of(case)
    lowered, found = passes.lower(
        imported.mod, case.algorithm, case.schedule, target.compiler, case.precision, case.format
    )
    generate(lowered, target.compiler)
    assert found.fallbacks == ()
    assert found.as_asked + found.depthwise == found.total
