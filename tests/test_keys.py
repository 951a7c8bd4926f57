"""Keys change with what goes in, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dlas import keys
from dlas.errors import DataError
from dlas.hardware import targets
from dlas.sweep import Planned
from dlas.trial import Settings, Trial
from dlas.values import Cell, Compression, Data, Gpu, ModelSpec, Target, Weights

SPEC = ModelSpec("mine", "tests.networks:tiny", (1, 3, 8, 8))
CELL = Cell("cifar10", SPEC, "dense", "fp32", "dense", "gemm", "scheduled", "x86_avx")

UNTRAINED = Weights("untrained")
GIVEN = Weights("given", Path("mine.pt"), "a")
DENSE = Compression()
WEIGHT = Compression("weight", 0.9)
SHRUNK = Compression("channel", 0.9, shrunk=True)


@pytest.fixture
def target() -> Target:
    return targets.load("x86")


def test_a_network_depends_on_definition_weights_and_compression() -> None:
    pruned = replace(GIVEN, origin="trained")
    found = [
        keys.network_key(SPEC, UNTRAINED, DENSE),
        keys.network_key(replace(SPEC, input_shape=(1, 3, 9, 9)), UNTRAINED, DENSE),
        keys.network_key(replace(SPEC, arguments=(("channels", 4),)), UNTRAINED, DENSE),
        keys.network_key(replace(SPEC, factory="tests.networks:raising"), UNTRAINED, DENSE),
        keys.network_key(SPEC, GIVEN, DENSE),
        keys.network_key(SPEC, replace(GIVEN, sha256="b"), DENSE),
        keys.network_key(SPEC, UNTRAINED, WEIGHT),
        keys.network_key(SPEC, UNTRAINED, replace(WEIGHT, level_fraction=0.8)),
        keys.network_key(SPEC, UNTRAINED, replace(SHRUNK, shrunk=False)),
        keys.network_key(SPEC, UNTRAINED, SHRUNK),
        keys.network_key(SPEC, pruned, WEIGHT),
        keys.network_key(SPEC, replace(pruned, finetuning="paper_finetune"), WEIGHT),
    ]
    assert len(set(found)) == len(found)
    # The same weights from another place, and what training took, are the same weights.
    moved = replace(GIVEN, path=Path("moved.pt"), seconds=5.0, finetune_seconds=9.0)
    assert keys.network_key(SPEC, moved, DENSE) in found
    assert keys.network_key(replace(SPEC, name="yours"), UNTRAINED, DENSE) in found


def test_integers_depend_on_network_precision_activations_and_images() -> None:
    found = {
        keys.quantized_key("network", "int8", "uint8", "images", 128),
        keys.quantized_key("another", "int8", "uint8", "images", 128),
        keys.quantized_key("network", "int8_ort_default", "uint8", "images", 128),
        keys.quantized_key("network", "int8", "int8", "images", 128),
        keys.quantized_key("network", "int8", "uint8", "others", 128),
        keys.quantized_key("network", "int8", "uint8", "", 128),
        keys.quantized_key("network", "int8", "uint8", "images", 64),
    }
    assert len(found) == 7


def test_an_artifact_depends_on_cell_network_and_compiler(target: Target) -> None:
    other_compiler = replace(target, compiler=replace(target.compiler, mcpu="x86-64"))
    found = {
        keys.artifact_key(CELL, "network", "", target),
        keys.artifact_key(CELL, "another", "", target),
        keys.artifact_key(CELL, "network", "quantized", target),
        keys.artifact_key(replace(CELL, algorithm="direct"), "network", "", target),
        keys.artifact_key(replace(CELL, tuning="minimal"), "network", "", target),
        keys.artifact_key(replace(CELL, precision="fp16"), "network", "", target),
        keys.artifact_key(CELL, "network", "", other_compiler),
    }
    assert len(found) == 7
    # The same network under another name, and measured elsewhere, is compiled once.
    renamed = replace(CELL, model=replace(SPEC, name="yours"), compression="weight@elbow")
    elsewhere = replace(target, board=replace(target.board, cpu_set="7"))
    assert keys.artifact_key(renamed, "network", "", elsewhere) in found


def integers_target(target: Target, activations: str) -> Target:
    return replace(target, compiler=replace(target.compiler, int8_activations=activations))


@pytest.mark.parametrize(
    ("precision", "differ"),
    [("int8", True), ("int8_ort_default", False), ("fp16", False), ("fp32", False)],
)
def test_only_int8_asks_what_integers_a_target_takes(
    target: Target, tmp_path: Path, precision: str, differ: bool
) -> None:
    cell = replace(CELL, precision=precision)
    found = {
        trial(cell, integers_target(target, activations), tmp_path).quantized_key
        for activations in ("uint8", "int8")
    }
    assert len(found) == (2 if differ else 1)
    assert ("" in found) == (not precision.startswith("int8"))


def test_a_trial_of_integers_depends_on_what_it_is_calibrated_on(target: Target, tmp_path: Path) -> None:
    cell = replace(CELL, precision="int8")
    noise = trial(cell, target, tmp_path)
    images = trial(cell, target, tmp_path, Data("cifar10", None, "a" * 64))
    others = trial(cell, target, tmp_path, Data("cifar10", None, "b" * 64))
    assert noise.calibration_key == ""
    assert len({each.artifact_key for each in (noise, images, others)}) == 3
    floats = [trial(CELL, target, tmp_path, each.data).artifact_key for each in (noise, images, others)]
    assert len(set(floats)) == 1


def trial(cell: Cell, target: Target, root: Path, data: Data | DataError | None = None) -> Trial:
    planned = Planned(cell, target, "", "", trains=False)
    return Trial(planned, 0, Settings("trial", root), None, data or DataError("no data here", "get some"))


def test_a_row_depends_on_artifact_board_and_image(target: Target) -> None:
    elsewhere = replace(target, board=replace(target.board, cpu_set="7"))
    found = {
        keys.row_key("artifact", target, "image", "reference"),
        keys.row_key("another", target, "image", "reference"),
        keys.row_key("artifact", elsewhere, "image", "reference"),
        keys.row_key("artifact", replace(target, gpu=Gpu(timer="events")), "image", "reference"),
        keys.row_key("artifact", target, "", "reference"),
        keys.row_key("artifact", target, "image", ""),
    }
    assert len(found) == 6


def test_images_depend_on_data_split_count_and_preprocessing() -> None:
    data = Data("digits", None, "a")
    found = {
        keys.images_key(data, SPEC, "test", 100),
        keys.images_key(data, SPEC, "val", 100),
        keys.images_key(data, SPEC, "test", 200),
        keys.images_key(replace(data, sha256="b"), SPEC, "test", 100),
        keys.images_key(data, replace(SPEC, input_shape=(1, 3, 9, 9)), "test", 100),
    }
    assert len(found) == 5
    other = replace(SPEC, factory="tests.networks:raising")
    assert keys.images_key(data, other, "test", 100) in found
    imagenet = replace(data, name="imagenet")
    assert keys.images_key(imagenet, other, "test", 100) != keys.images_key(imagenet, SPEC, "test", 100)


def test_what_the_oracle_makes_of_them_depends_on_images_and_network() -> None:
    found = {
        keys.reference_key("images", "network", ""),
        keys.reference_key("others", "network", ""),
        keys.reference_key("images", "another", ""),
        keys.reference_key("images", "network", "quantized"),
    }
    assert len(found) == 4


def test_keys_need_neither_torch_nor_tvm() -> None:
    code = "import dlas.keys, sys; sys.exit(bool({'torch', 'tvm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
