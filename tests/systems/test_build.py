"""What an artifact says of itself, and what its code leaves out."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn
from tvm import relax

from dlas.compression.prune import prune_weights
from dlas.errors import BuildError
from dlas.hardware import elf, targets
from dlas.models.resnet import resnet18
from dlas.systems import artifact, census, passes
from dlas.systems.build import build
from dlas.systems.export import export, generate
from dlas.systems.frontend import Imported, import_network
from dlas.values import Artifact, Board, Cell, Compiler, Contents, ModelSpec, Target, Weights
from tests.networks import tiny
from tests.systems.lowering import AVX2, NEON

SHAPE = (1, 3, 16, 16)
WEIGHTS = Weights("trained", Path("w.pt"), "5" * 64)
TARGET = Target(
    name="a_board",
    description="",
    aliases=(),
    protocol_id="",
    compiler=AVX2,
    board=Board(runners=(), threads=1, cpu_set=""),
    image=None,
)


def cell(algorithm: str) -> Cell:
    model = ModelSpec("tiny", "tests.networks:tiny", SHAPE)
    return Cell("none", model, "dense", "fp32", "dense", algorithm, "scheduled", TARGET.name)


class Concatenation(nn.Module):
    """As many inputs to one function as a dense block has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 2, 1) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], 1).relu()


def imported(module: nn.Module) -> Imported:
    x = np.random.default_rng(0).standard_normal(SHAPE, "float32")
    return import_network(module.eval(), x)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return tiny()


@pytest.fixture(scope="module")
def built(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    given = imported(network)
    with torch.no_grad():
        oracle = network(torch.from_numpy(given.x)).numpy()
    folder = tmp_path_factory.mktemp("artifact")
    contents = Contents(
        weights=WEIGHTS,
        level_fraction=0.25,
        oracle_name="pytorch",
        oracle=oracle,
        float32=oracle + 1,
        calibration="8 images of noise",
        stage_seconds={"quantize": 3.0, "import": 12.5},
    )
    return build(given, contents, cell("gemm"), TARGET, "a key", folder)


def test_an_artifact_is_read_as_it_was_built(built: Artifact) -> None:
    assert artifact.read(built.path) == built
    assert {path.name for path in built.path.iterdir()} == {
        "model.so",
        "input.npy",
        "oracle.npy",
        "float32.npy",
        "manifest.json",
    }


def test_an_artifact_says_whose_weights_it_has_and_what_it_must_compute(built: Artifact) -> None:
    assert (built.weights, built.weights_sha256) == ("trained", "5" * 64)
    assert (built.level_fraction, built.oracle_name) == (0.25, "pytorch")
    assert built.calibration == "8 images of noise"
    np.testing.assert_array_equal(built.float32(), built.oracle() + 1)


@pytest.mark.parametrize("name", ["input", "oracle", "float32"])
def test_its_data_have_a_hash(built: Artifact, tmp_path: Path, name: str) -> None:
    shutil.copytree(built.path, tmp_path / "copy")
    assert artifact.hash_data(tmp_path / "copy") == built.data_sha256
    np.save(tmp_path / "copy" / f"{name}.npy", np.zeros(3))
    assert artifact.hash_data(tmp_path / "copy") != built.data_sha256


def test_an_artifact_says_what_it_computes_with(built: Artifact) -> None:
    assert (built.arithmetic, built.layout) == ("float32", "nchw")
    assert (built.ops_total, built.ops_integer, built.weight_sparsity_fraction) == (2, 0, 0)


def test_zeros_in_the_weights_are_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = tiny(channels=4)
    with torch.no_grad():
        network[0].weight[0] = 0  # 27 of 108 weights, beside 36 of the depthwise convolution
    given = imported(network)
    _, operators = passes.lower(given.mod, "gemm", "scheduled", AVX2)
    assert operators.weight_sparsity_fraction == 27 / 144
    assert operators.mac_sparsity_fraction == 27 / 144  # both convolutions have outputs of one size


@pytest.mark.parametrize("format", ["csr", "csr_packed", "auto"])
@pytest.mark.parametrize("algorithm", passes.ALGORITHMS)
@pytest.mark.parametrize(
    "compiler", [AVX2, pytest.param(NEON, marks=pytest.mark.aarch64)], ids=["x86", "arm"]
)
def test_sparse_kernels_are_linked(compiler: Compiler, algorithm: str, format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = resnet18(width=16).eval()
    prune_weights(network, 0.9)
    given = import_network(network, np.ones((1, 3, 32, 32), "float32"))
    lowered, operators = passes.lower(given.mod, algorithm, "scheduled", compiler, format=format)
    kernels = set(census.called_functions(lowered))
    sparse = [name for name in kernels if "csr" in name]
    assert operators.as_asked == operators.total == 20
    assert operators.sparse == 20 if format != "auto" else 0 < operators.sparse < 20
    path = tmp_path / "model.so"
    export(lowered, compiler, path)
    command = ["nm", "--dynamic", "--defined-only", str(path)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sparse
    assert all(name in listed.stdout for name in sparse)
    if compiler is NEON:
        elf.check([path], compiler.arch, targets.load("xavier").system)


def test_each_stage_has_its_seconds(built: Artifact) -> None:
    assert list(built.stage_seconds) == ["quantize", "import", "lower", "compile", "link"]
    assert all(type(seconds) is float and seconds > 0 for seconds in built.stage_seconds.values())
    assert (built.stage_seconds["quantize"], built.stage_seconds["import"]) == (3.0, 12.5)


def test_the_library_computes_what_pytorch_does(built: Artifact) -> None:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(built.module)), tvm.cpu())
    output = machine["main"](tvm.runtime.tensor(built.input())).numpy()
    np.testing.assert_allclose(output, built.oracle(), rtol=0, atol=1e-5 * np.abs(built.oracle()).max())


@pytest.mark.parametrize("lost", ["stage_seconds", "weights_sha256", "level_fraction", "cell"])
def test_a_manifest_without_a_field_is_damaged(built: Artifact, tmp_path: Path, lost: str) -> None:
    facts = json.loads((built.path / artifact.MANIFEST).read_text())
    del facts[lost]
    (tmp_path / artifact.MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(BuildError, match=f"damaged: .*{lost}"):
        artifact.read(tmp_path)


def test_what_is_imported_can_be_lowered_again(network: nn.Module) -> None:
    kept = imported(network)
    for algorithm, schedule in (("gemm", "scheduled"), ("direct", "minimal")):
        fresh = imported(network)
        again, operators = passes.lower(kept.mod, algorithm, schedule, AVX2)
        expected, expected_operators = passes.lower(fresh.mod, algorithm, schedule, AVX2)
        tvm.ir.assert_structural_equal(again, expected)
        assert again.script() == expected.script()
        assert operators == expected_operators
        tvm.ir.assert_structural_equal(kept.mod, imported(network).mod)


def test_functions_do_not_check_their_arguments() -> None:
    lowered, _ = passes.lower(imported(Concatenation()).mod, "direct", "scheduled", AVX2)
    code = generate(lowered, AVX2).mod.imports[0].inspect_source("ll")
    assert "fused_concatenate" in code
    assert "TVMFFIErrorSetRaised" not in code


def test_a_network_checks_its_input() -> None:
    given = imported(Concatenation())
    lowered, _ = passes.lower(given.mod, "direct", "scheduled", AVX2)
    main = relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())["main"]
    for wrong in (given.x[..., :-1], given.x.astype("float64")):
        with pytest.raises((RuntimeError, ValueError), match=r"fn=main, .*param=x"):
            main(tvm.runtime.tensor(np.ascontiguousarray(wrong)))
