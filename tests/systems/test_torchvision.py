"""TorchVision's networks, at a quarter of their size: each convolution runs as asked, and rightly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tvm
from tvm import relax

from dlas.models.loading import Model, load
from dlas.systems import legalize, passes
from dlas.systems.census import Operators
from dlas.systems.export import generate
from dlas.systems.frontend import to_relax
from dlas.values import ModelSpec, Weights
from tests.systems.lowering import AVX2

# Convolutions, depthwise ones, those of one pixel, and batch norms that no convolution takes in.
COUNTS = {
    "densenet161": (160, 0, 0, 82),
    "efficientnetb0": (81, 16, 32, 0),
    "resnet50": (53, 0, 0, 0),
    "mobilenetv2": (52, 17, 0, 0),
}
# One combination of each network; between them they have all algorithms and both schedules.
RUN = {
    "densenet161": ("spatial_pack", "scheduled"),
    "efficientnetb0": ("gemm", "scheduled"),
    "resnet50": ("direct", "scheduled"),
    "mobilenetv2": ("spatial_pack", "minimal"),
}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name == "densenet161")) for name in COUNTS]


@dataclass(frozen=True)
class Network:
    name: str
    model: Model
    mod: tvm.IRModule


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> Network:
    name = request.param
    spec = ModelSpec(name, f"dlas.models.imagenet:{name}", (1, 3, 64, 64), (("classes", 10),))
    model = load(spec, Weights("untrained"))
    return Network(name, model, to_relax(model.module, model.input))


def test_every_convolution_runs_as_asked(network: Network) -> None:
    total, depthwise, pixels, norms = COUNTS[network.name]
    bindings = [binding for block in network.mod["main"].body.blocks for binding in block.bindings]
    calls = [binding.value for binding in bindings if isinstance(binding.value, relax.Call)]
    found = [legalize.geometry(call) for call in calls if call.op.name == "relax.nn.conv2d"]
    scales = [call for call in calls if call.op.name == "relax.multiply" and is_constant(call.args[1])]
    assert len(found) == total
    assert sum(conv.depthwise for conv in found) == depthwise
    assert sum((conv.H, conv.W) == (1, 1) for conv in found) == pixels
    assert len(scales) == norms
    assert "relax.nn.batch_norm" not in {call.op.name for call in calls}
    expected = Operators(
        total, total - depthwise, depthwise, integer=0, fallbacks=(), arithmetic="float32", layout="nchw"
    )
    for algorithm in passes.ALGORITHMS:
        lowered_to = passes.lower(network.mod, algorithm, "scheduled", AVX2)[1]
        sparsity = lowered_to.weight_sparsity_fraction, lowered_to.mac_sparsity_fraction
        assert max(sparsity) < 1e-5  # drawn weights are now and then zero
        assert lowered_to.weight_bytes >= lowered_to.dense_weight_bytes > 0  # blocks are filled up
        unknown = {"weight_sparsity_fraction": 0.0, "mac_sparsity_fraction": 0.0}
        bytes_ = {"weight_bytes": 0, "dense_weight_bytes": 0}
        assert replace(lowered_to, **unknown, **bytes_) == expected, algorithm


def test_a_network_computes_what_pytorch_does(network: Network) -> None:
    lowered, _ = passes.lower(network.mod, *RUN[network.name], AVX2)
    machine = relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())
    output = machine["main"](tvm.runtime.tensor(network.model.input)).numpy()
    oracle = network.model.output
    assert np.abs(output - oracle).max() < 1e-4 * np.abs(oracle).max()


def is_constant(expr: relax.Expr) -> bool:
    return isinstance(expr, tvm.ir.GenericConst)
