"""Keys change with what goes in, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from dlas import keys
from dlas.hardware import targets
from dlas.values import Cell, ModelSpec, Target

SPEC = ModelSpec("mine", "tests.networks:tiny", (1, 3, 8, 8))
CELL = Cell("cifar10", SPEC, "dense", "fp32", "dense", "gemm", "scheduled", "x86_avx")


@pytest.fixture
def target() -> Target:
    return targets.load("x86")


def test_an_artifact_depends_on_cell_network_and_compiler(target: Target) -> None:
    other_compiler = replace(target, compiler=replace(target.compiler, mcpu="x86-64"))
    found = {
        keys.artifact_key(CELL, target),
        keys.artifact_key(replace(CELL, algorithm="direct"), target),
        keys.artifact_key(replace(CELL, tuning="minimal"), target),
        keys.artifact_key(replace(CELL, model=replace(SPEC, input_shape=(1, 3, 9, 9))), target),
        keys.artifact_key(replace(CELL, model=replace(SPEC, arguments=(("channels", 4),))), target),
        keys.artifact_key(replace(CELL, model=replace(SPEC, factory="tests.networks:raising")), target),
        keys.artifact_key(CELL, other_compiler),
    }
    assert len(found) == 7
    # The same network under another name, and measured elsewhere, is compiled once.
    renamed = replace(CELL, model=replace(SPEC, name="yours"))
    elsewhere = replace(target, board=replace(target.board, cpu_set="7"))
    assert keys.artifact_key(renamed, elsewhere) == keys.artifact_key(CELL, target)


def test_a_row_depends_on_artifact_board_and_image(target: Target) -> None:
    elsewhere = replace(target, board=replace(target.board, cpu_set="7"))
    found = {
        keys.row_key("artifact", target, "image"),
        keys.row_key("another", target, "image"),
        keys.row_key("artifact", elsewhere, "image"),
        keys.row_key("artifact", target, ""),
    }
    assert len(found) == 4


def test_keys_need_neither_torch_nor_tvm() -> None:
    code = "import dlas.keys, sys; sys.exit(bool({'torch', 'tvm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
