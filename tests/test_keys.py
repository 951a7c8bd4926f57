"""Keys change with what goes in, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dlas import keys
from dlas.hardware import targets
from dlas.values import Cell, Data, ModelSpec, Target, Weights

SPEC = ModelSpec("mine", "tests.networks:tiny", (1, 3, 8, 8))
CELL = Cell("cifar10", SPEC, "dense", "fp32", "dense", "gemm", "scheduled", "x86_avx")

UNTRAINED = Weights("untrained")
GIVEN = Weights("given", Path("mine.pt"), "a")


@pytest.fixture
def target() -> Target:
    return targets.load("x86")


def test_an_artifact_depends_on_cell_network_and_compiler(target: Target) -> None:
    other_compiler = replace(target, compiler=replace(target.compiler, mcpu="x86-64"))
    found = {
        keys.artifact_key(CELL, UNTRAINED, target),
        keys.artifact_key(replace(CELL, algorithm="direct"), UNTRAINED, target),
        keys.artifact_key(replace(CELL, tuning="minimal"), UNTRAINED, target),
        keys.artifact_key(replace(CELL, model=replace(SPEC, input_shape=(1, 3, 9, 9))), UNTRAINED, target),
        keys.artifact_key(
            replace(CELL, model=replace(SPEC, arguments=(("channels", 4),))), UNTRAINED, target
        ),
        keys.artifact_key(
            replace(CELL, model=replace(SPEC, factory="tests.networks:raising")), UNTRAINED, target
        ),
        keys.artifact_key(CELL, UNTRAINED, other_compiler),
        keys.artifact_key(CELL, GIVEN, target),
        keys.artifact_key(CELL, replace(GIVEN, sha256="b"), target),
    }
    assert len(found) == 9
    # The same weights from another place are the same weights.
    assert keys.artifact_key(CELL, replace(GIVEN, path=Path("moved.pt")), target) in found
    # The same network under another name, and measured elsewhere, is compiled once.
    renamed = replace(CELL, model=replace(SPEC, name="yours"))
    elsewhere = replace(target, board=replace(target.board, cpu_set="7"))
    assert keys.artifact_key(renamed, UNTRAINED, elsewhere) == keys.artifact_key(CELL, UNTRAINED, target)


def test_a_row_depends_on_artifact_board_and_image(target: Target) -> None:
    elsewhere = replace(target, board=replace(target.board, cpu_set="7"))
    found = {
        keys.row_key("artifact", target, "image", "reference"),
        keys.row_key("another", target, "image", "reference"),
        keys.row_key("artifact", elsewhere, "image", "reference"),
        keys.row_key("artifact", target, "", "reference"),
        keys.row_key("artifact", target, "image", ""),
    }
    assert len(found) == 5


def test_the_images_of_an_accuracy_depend_on_data_count_and_preprocessing() -> None:
    data = Data("digits", None, "a")
    found = {
        keys.images_key(data, SPEC, 100),
        keys.images_key(data, SPEC, 200),
        keys.images_key(replace(data, sha256="b"), SPEC, 100),
        keys.images_key(data, replace(SPEC, input_shape=(1, 3, 9, 9)), 100),
    }
    assert len(found) == 4
    other = replace(SPEC, factory="tests.networks:raising")
    assert keys.images_key(data, other, 100) in found
    imagenet = replace(data, name="imagenet")
    assert keys.images_key(imagenet, other, 100) != keys.images_key(imagenet, SPEC, 100)


def test_what_pytorch_makes_of_them_depends_on_network_and_weights() -> None:
    wider = replace(SPEC, arguments=(("channels", 4),))
    found = {
        keys.reference_key("images", SPEC, GIVEN),
        keys.reference_key("others", SPEC, GIVEN),
        keys.reference_key("images", wider, GIVEN),
        keys.reference_key("images", SPEC, replace(GIVEN, sha256="b")),
    }
    assert len(found) == 4


def test_keys_need_neither_torch_nor_tvm() -> None:
    code = "import dlas.keys, sys; sys.exit(bool({'torch', 'tvm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
