from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas import sweep
from dlas.compression import notation
from dlas.errors import SweepError
from dlas.hardware import targets
from dlas.values import Board, Target

ROOT = Path(__file__).resolve().parents[1]
HIKEY = targets.load("hikey970_neon")
DESK = replace(HIKEY, name="desk_board", board=Board(runners=("local",), threads=2))

VALUES = {
    "model": ("resnet18", "mobilenetv1", "vgg16", "narrow"),
    "algorithm": ("direct", "gemm", "spatial_pack"),
    "tuning": ("minimal", "scheduled"),
}
AXES = {"model": ["resnet18"], "algorithm": ["gemm"], "tuning": ["scheduled"]}
FIXED = {"dataset": "cifar10", "compression": "dense", "precision": "fp32", "format": "dense"}
ALGORITHMS = ("direct", "gemm", "spatial_pack")
ID_AXES = ("dataset", "model", "compression", "precision", "format", "algorithm", "tuning", "target")


def toml(axes: dict[str, Sequence[str]], **entries: list[dict[str, str]]) -> str:
    """A sweep's file; a JSON string or list of strings is TOML too."""
    lines = ['description = "a test"', "[axes]"]
    lines += [f"{axis} = {json.dumps(list(values))}" for axis, values in axes.items()]
    lines += [f'{axis} = ["{value}"]' for axis, value in FIXED.items() if axis not in axes]
    lines += ["[models.narrow]", 'factory = "resnet18"', "arguments = { width = 16 }"]
    for kind, tables in entries.items():
        for table in tables:
            lines += [f"[[{kind}]]", *(f"{axis} = {json.dumps(value)}" for axis, value in table.items())]
    return "\n".join(lines)


def plan(path: Path, text: str, chosen: Sequence[Target] = (DESK,)) -> tuple[sweep.Planned, ...]:
    path.write_text(text)
    return sweep.expand(sweep.load(str(path)), chosen)


def ids(planned: Sequence[sweep.Planned]) -> list[str]:
    return [each.cell.id for each in planned]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test_sweep.toml"


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    axes = {
        axis: draw(st.lists(st.sampled_from(all_), min_size=1, unique=True)) for axis, all_ in VALUES.items()
    }
    value = {axis: st.sampled_from(values) for axis, values in VALUES.items()}
    there = {axis: st.sampled_from(values) for axis, values in axes.items()}
    globs = {axis: one | one.map(lambda word: f"{word[:2]}*") for axis, one in there.items()}
    include = st.fixed_dictionaries({}, optional=value).filter(bool)
    exclude = st.fixed_dictionaries({}, optional=globs).filter(bool)
    return {
        "axes": axes,
        "include": draw(st.lists(include, max_size=3)),
        "exclude": draw(st.lists(exclude, max_size=3)),
    }


def product(axes: dict[str, Sequence[str]]) -> list[tuple[str, ...]]:
    return list(itertools.product(*(axes[axis] for axis in VALUES)))


@given(drawn=sweeps())
def test_expansion_is_the_product_less_the_excluded_and_the_included(
    drawn: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def is_excluded(point: tuple[str, ...]) -> bool:
        named = dict(zip(VALUES, point, strict=True))
        return any(
            all(fnmatchcase(named[axis], glob) for axis, glob in entry.items()) for entry in drawn["exclude"]
        )

    expected = [point for point in product(drawn["axes"]) if not is_excluded(point)]
    for entry in drawn["include"]:
        expected += product(drawn["axes"] | {axis: [value] for axis, value in entry.items()})
    path = tmp_path_factory.mktemp("sweep") / "drawn.toml"
    text = toml(drawn["axes"], include=drawn["include"], exclude=drawn["exclude"])
    if not expected:
        with pytest.raises(SweepError, match="has no cell"):
            plan(path, text)
        return

    planned = plan(path, text)
    assert len(set(ids(planned))) == len(planned)
    assert [(c.model.name, c.algorithm, c.tuning) for c in (each.cell for each in planned)] == list(
        dict.fromkeys(expected)
    )
    for each in planned:
        named = dict(zip(ID_AXES, each.cell.id.split("/"), strict=True))
        assert named.pop("model") == each.cell.model.name
        assert all(getattr(each.cell, axis) == value for axis, value in named.items())
        assert sweep.select(planned, each.cell.id) == (each,)


def test_models_are_outermost_in_the_order_of_the_file(path: Path) -> None:
    planned = plan(
        path, toml({"tuning": ["scheduled", "minimal"], "algorithm": ["gemm"], "model": ["vgg16", "narrow"]})
    )
    assert sweep.listing(planned).splitlines() == [
        "cifar10/vgg16/dense/fp32/dense/gemm/scheduled/desk_board",
        "cifar10/vgg16/dense/fp32/dense/gemm/minimal/desk_board",
        "cifar10/narrow/dense/fp32/dense/gemm/scheduled/desk_board",
        "cifar10/narrow/dense/fp32/dense/gemm/minimal/desk_board",
    ]


def test_networks_have_their_datasets_input(path: Path) -> None:
    planned = plan(path, toml({"tuning": ["scheduled"], "algorithm": ["gemm"], "model": ["narrow"]}))
    assert planned[0].cell.model.input_shape == (1, 3, 32, 32)
    assert planned[0].cell.model.arguments == (("width", 16),)


def test_a_network_of_ones_own_has_its_own_input(path: Path) -> None:
    own = '[models.mine]\nfactory = "nets:tiny"\ninput_shape = [1, 1, 28, 28]'
    planned = plan(path, f"{toml({**AXES, 'model': ['mine']})}\n{own}")
    assert planned[0].cell.model.input_shape == (1, 1, 28, 28)


@pytest.mark.parametrize("name", ["cifar", "digits", "imagenet"])
def test_a_matrix_compresses_one_way_at_a_time(name: str) -> None:
    planned = sweep.expand(sweep.load(name), [DESK])
    cells = [each.cell for each in planned]
    combinations = Counter((c.compression, c.precision, c.format, c.tuning) for c in cells)
    assert set(combinations.values()) == {12}  # 4 networks by 3 algorithms
    dense_formats = [compression for compression, _, format, _ in combinations if format == "dense"]
    pruned = list(dict.fromkeys(one for one in dense_formats if one != "dense"))
    assert [notation.parse(one).technique for one in pruned] == ["weight", "channel", "channel"]
    assert [notation.parse(one).shrunk for one in pruned] == [False, False, True]
    weight, channel, _ = pruned
    assert set(combinations) == {
        *((compression, "fp32", "dense", "scheduled") for compression in ["dense", *pruned]),
        *((weight, "fp32", format, "scheduled") for format in ["csr", "csr_packed", "auto"]),
        *((channel, "fp32", format, "scheduled") for format in ["csr", "csr_packed"]),
        *(("dense", precision, "dense", "scheduled") for precision in ["fp16", "int8", "int8_ort_default"]),
        ("dense", "fp32", "dense", "minimal"),
    }
    assert len(planned) == 13 * 12


def test_digits_times_its_elbows() -> None:
    planned = sweep.expand(sweep.load("digits"), [DESK])
    assert len(sweep.select(planned, "*/weight@elbow/*")) == 48
    assert len(sweep.select(planned, "*/channel@elbow/*")) == 36
    assert {(each.cell.finetuning, each.cell.max_drop_fraction) for each in planned} == {
        ("digits_finetune", 0.01)
    }


def test_cells_say_how_they_are_pruned_and_what_the_elbow_may_cost(path: Path) -> None:
    text = '[training.cifar10]\nrecipe = "paper"\ntrain = false\nfinetuning = "paper_finetune"\n'
    (planned,) = plan(path, f"{toml(AXES)}\n{text}[elbow]\nmax_drop_fraction = 0.25\n")
    cell = planned.cell
    assert (cell.recipe, cell.finetuning, cell.max_drop_fraction) == ("paper", "paper_finetune", 0.25)
    (planned,) = plan(path, toml(AXES))
    cell = planned.cell
    assert (cell.recipe, cell.finetuning, cell.max_drop_fraction) == ("", "", 0.01)


def test_smoke_is_small() -> None:
    smoke = sweep.load("smoke")
    assert smoke.axes["target"] == ("x86_avx",)
    cells = [each.cell for each in sweep.expand(smoke, [DESK])]
    found = [(cell.algorithm, cell.compression, cell.format, cell.tuning) for cell in cells]
    assert found == [
        *((algorithm, "dense", "dense", "scheduled") for algorithm in ALGORITHMS),
        *((algorithm, "uniform90", "auto", "scheduled") for algorithm in ALGORITHMS),
        ("direct", "dense", "dense", "tuned"),
    ]
    assert smoke.budget.trials == 8


def test_a_sweeps_own_targets(path: Path) -> None:
    planned = plan(path, toml({**AXES, "target": ["xavier", "hikey"]}), chosen=())
    assert [each.target.name for each in planned] == ["xavier_cuda", "hikey970_neon"]


def test_an_include_can_bring_its_target(path: Path) -> None:
    planned = plan(path, toml({**AXES, "target": ["hikey"]}, include=[{"target": "xavier"}]), chosen=())
    assert [each.target.name for each in planned] == ["hikey970_neon", "xavier_cuda"]


def test_chosen_targets_replace_the_sweeps(path: Path) -> None:
    text = toml({**AXES, "target": ["hikey"]}, include=[{"target": "xavier", "algorithm": "direct"}])
    assert ids(plan(path, text)) == ["cifar10/resnet18/dense/fp32/dense/gemm/scheduled/desk_board"]


def test_an_alias_excludes_its_target(path: Path) -> None:
    text = toml({**AXES, "target": ["hikey", "xavier"]}, exclude=[{"target": "hikey"}])
    assert [each.target.name for each in plan(path, text, chosen=())] == ["xavier_cuda"]


def test_a_glob_excludes_a_board_of_ones_own(path: Path) -> None:
    text = toml({**AXES, "algorithm": ["direct", "gemm"]}, exclude=[{"target": "desk*", "algorithm": "gemm"}])
    assert [each.cell.algorithm for each in plan(path, text)] == ["direct"]


def test_a_target_chosen_twice(path: Path) -> None:
    with pytest.raises(SweepError) as caught:
        plan(path, toml(AXES), chosen=(DESK, DESK))
    assert str(caught.value) == "a target is chosen twice: desk_board, desk_board; name each once"


def test_nothing_left(path: Path) -> None:
    with pytest.raises(SweepError) as caught:
        plan(path, toml(AXES, exclude=[{"model": "*"}]))
    assert str(caught.value) == "sweep test_sweep has no cell: [[exclude]] takes all away; exclude less"


def test_a_board_that_runs_has_no_reasons(path: Path) -> None:
    (planned,) = plan(path, toml(AXES))
    assert (planned.unbuildable, planned.unmeasurable, planned.reason) == ("", "", "")


def test_a_board_out_of_reach_is_built_and_not_measured(path: Path) -> None:
    (planned,) = plan(path, toml(AXES), [replace(HIKEY, board=replace(HIKEY.board, runners=()))])
    reason = "this version does not reach hikey970_neon to measure on it: [board] runners is empty"
    assert (planned.unbuildable, planned.unmeasurable, planned.reason) == ("", reason, reason)


@pytest.mark.parametrize(("name", "kind"), [("hikey970_opencl", "opencl"), ("xavier_cuda", "cuda")])
@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({}, ""),
        ({"precision": ["fp16"]}, ""),
        ({"precision": ["fp16"], "format": ["ell"]}, ""),
        ({"format": ["auto"]}, ""),
        ({"tuning": ["minimal"]}, ""),
        ({"precision": ["int8"]}, "int8 is not computed with KIND"),
        ({"format": ["csr_packed"]}, "csr_packed is no format with KIND; choose one of dense, ell, auto"),
        ({"format": ["blocked"]}, "blocked is no format with KIND; choose one of dense, ell, auto"),
        ({"tuning": ["tuned"]}, "no schedules are searched with KIND"),
    ],
)
def test_what_gpus_compute(path: Path, name: str, kind: str, axes: dict[str, list[str]], reason: str) -> None:
    (planned,) = plan(path, toml({**AXES, **axes}), [targets.load(name)])
    assert planned.reason == reason.replace("KIND", kind)


def test_ell_is_of_gpus(path: Path) -> None:
    (planned,) = plan(path, toml({**AXES, "format": ["ell"]}))
    assert planned.reason == "ell is no format with cpu; choose one of dense, blocked, csr, csr_packed, auto"


@pytest.mark.parametrize("format", ["csr", "csr_packed", "auto"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp32"])
def test_sparse_formats_are_of_float32(path: Path, precision: str, format: str) -> None:
    planned = plan(path, toml({**AXES, "precision": [precision], "format": [format]}))
    reason = f"{format} is computed in fp32 only, not in {precision}" if precision != "fp32" else ""
    assert {each.unbuildable for each in planned} == {reason}


def test_a_sweeps_own_invalid_cells_stay_with_their_reason(path: Path) -> None:
    invalid = [
        {"algorithm": "g*", "target": "desk*", "reason": "too much memory"},
        {"tuning": "*", "reason": "slow"},
    ]
    planned = plan(path, toml({**AXES, "algorithm": ["direct", "gemm"]}, invalid=invalid))
    assert [each.unbuildable for each in planned] == ["slow", "too much memory; slow"]


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.name for rule in sweep.RULES}) == len(sweep.RULES)


def test_select_goes_over_slashes_and_minds_case(path: Path) -> None:
    planned = plan(path, toml({**AXES, "model": ["resnet18", "vgg16"], "algorithm": ["direct", "gemm"]}))
    assert [each.cell.algorithm for each in sweep.select(planned, "*/vgg16/*")] == ["direct", "gemm"]
    assert [each.cell.model.name for each in sweep.select(planned, "cifar10*gemm*")] == ["resnet18", "vgg16"]
    with pytest.raises(SweepError):
        sweep.select(planned, "*VGG16*")


def test_select_of_nothing_names_the_closest(path: Path) -> None:
    planned = plan(path, toml({**AXES, "model": ["resnet18", "vgg16"], "algorithm": ["direct", "gemm"]}))
    with pytest.raises(SweepError) as caught:
        sweep.select(planned, "*/vg16/*/gem/*")
    assert str(caught.value) == (
        "no cell matches '*/vg16/*/gem/*', close are "
        "cifar10/vgg16/dense/fp32/dense/gemm/scheduled/desk_board, "
        "cifar10/vgg16/dense/fp32/dense/direct/scheduled/desk_board, "
        "cifar10/resnet18/dense/fp32/dense/gemm/scheduled/desk_board; see all with --list"
    )


def test_nothing_heavy_is_imported() -> None:
    heavy = {"torch", "torchvision", "tvm", "pyarrow", "docker", "onnxruntime", "openvino"}
    code = "import sys; from dlas import sweep; from dlas.hardware import targets; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert heavy & set(ran.stdout.split()) == set()
