"""The elbows of a sweep, from levels as they lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dlas import elbows, sweep
from dlas.datasets import catalog
from dlas.models import checkpoint
from tests.pruned import HOW, SWEEP, plan, write_levels

WEIGHT = HOW.weight_levels


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[sweep.Planned, ...]]:
    return partial(plan, tmp_path)


TO_DO = "`invoke run` of this sweep trains and prunes it"


def look(planned: Sequence[sweep.Planned], root: Path) -> tuple[list[elbows.Curve], list[str]]:
    return elbows.curves(planned, catalog.folders("", root / "data"), root / "checkpoints")


def test_a_curve_for_each_network_and_technique(planned: Any, tmp_path: Path) -> None:
    spec = planned()[0].cell.model
    write_levels(spec, "weight", [190, 190, 189, 186, 185, 190, 50, 20], tmp_path / "checkpoints")
    write_levels(spec, "channel", [190, 185, 190], tmp_path / "checkpoints")
    found, notes = look(planned(), tmp_path)
    weight, channel = found
    assert (weight.network, weight.dataset, weight.technique) == ("mine", "digits", "weight")
    assert [p.level_fraction for p in weight.points] == [0.0, *WEIGHT]
    assert weight.max_drop_fraction == 0.02
    assert weight.chosen == weight.points[3]  # 4 of 200 images, and not 5
    assert (channel.technique, channel.chosen, len(channel.points)) == ("channel", None, 3)
    assert notes == [f"mine on digits, channel pruning: {TO_DO}"]  # of its levels, three are there


def test_levels_that_all_hold_are_not_the_last_word(planned: Any, tmp_path: Path) -> None:
    write_levels(planned()[0].cell.model, "weight", [190, 190, 189], tmp_path / "checkpoints")
    found, notes = look(planned(), tmp_path)
    assert [curve.chosen.level_fraction for curve in found if curve.chosen] == [0.6]
    assert notes == [
        f"mine on digits, weight pruning: {TO_DO}",
        f"mine on digits, channel pruning: {TO_DO}",
    ]


def test_a_whole_ladder_that_holds_is(planned: Any, tmp_path: Path) -> None:
    write_levels(planned()[0].cell.model, "weight", [190] * 8, tmp_path / "checkpoints")
    found, notes = look(planned(), tmp_path)
    assert [curve.chosen.level_fraction for curve in found if curve.chosen] == [WEIGHT[-1]]
    assert len(notes) == 1  # of the channels


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('weights = "mine.pt"\n', "", TO_DO),
        (
            'finetuning = "digits_finetune"\n',
            "",
            "mine has no recipe to prune it by, so there is no elbow: give the level by hand, as in weight80",
        ),
        (
            "train = true",
            "train = false",
            "recipe digits_finetune has not pruned mine to weight@elbow: `invoke prune --sweep ... "
            "--model mine --dataset digits --technique weight` does, or train = true in the sweep",
        ),
    ],
)
def test_what_has_no_curve_says_why(planned: Any, tmp_path: Path, old: str, new: str, why: str) -> None:
    found, notes = look(planned(SWEEP.replace(old, new)), tmp_path)
    assert found == []
    assert len(notes) == 2
    assert notes[0] == f"mine on digits, weight pruning: {why}"


def test_a_dataset_without_training_images(planned: Any, tmp_path: Path) -> None:
    text = (
        SWEEP.replace('"digits"]', '"imagenet"]')
        .replace('"resnet18"', '"resnet50"')
        .replace("{ width = 4 }", "{}")
    )
    _, notes = look(planned(text), tmp_path)
    assert notes[0] == (
        "mine on imagenet, weight pruning: mine has no recipe to prune it by, so there is no elbow: "
        "give the level by hand, as in weight80"
    )


def test_one_damaged_curve_leaves_the_others(planned: Any, tmp_path: Path) -> None:
    spec = planned()[0].cell.model
    write_levels(spec, "weight", [190, 100], tmp_path / "checkpoints")
    write_levels(spec, "channel", [190, 100], tmp_path / "checkpoints")
    (damaged,) = (tmp_path / "checkpoints").glob("digits/mine/*-weight-*/50-*")
    (damaged / checkpoint.WEIGHTS).write_bytes(b"something else")
    found, notes = look(planned(), tmp_path)
    assert [curve.technique for curve in found] == ["channel"]
    assert notes == [
        f"mine on digits, weight pruning: {damaged}/weights.pt: is not what was trained; "
        f"remove {damaged} and train again",
        f"mine on digits, channel pruning: {TO_DO}",
    ]


def test_the_report_is_table_notes_and_plot(planned: Any, tmp_path: Path) -> None:
    folders = catalog.folders("", tmp_path / "data")
    write_levels(planned()[0].cell.model, "weight", [190, 190, 100], tmp_path / "checkpoints")
    table, notes, plotted = elbows.draw("pruned", planned(), folders, tmp_path).split("\n\n")
    assert "50%" in next(line for line in table.splitlines() if line.endswith("<- elbow"))
    assert notes.splitlines()[1] == f"mine on digits, channel pruning: {TO_DO}"
    svg = tmp_path / "reports" / "pruned" / "elbow.svg"
    assert plotted == f"plotted to {svg}"
    assert "elbow: 50%" in svg.read_text()


def test_a_sweep_that_prunes_nothing_has_no_report(planned: Any, tmp_path: Path) -> None:
    dense = [each for each in planned() if each.cell.compression == "dense"]
    assert dense
    assert elbows.draw("pruned", dense, catalog.folders("", tmp_path), tmp_path) == ""
    assert not (tmp_path / "reports").exists()
