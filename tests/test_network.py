"""What a cell runs, from weights and levels as they lie on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlas import cache
from dlas.models import checkpoint, recipe
from dlas.network import Network
from dlas.values import Compression
from tests.pruned import HOW, SWEEP, N, digits_sha256, plan, write_levels

UNTRAINED = SWEEP.replace('weights = "mine.pt"\n', "")
STILL = ("train = true", "train = false")
DATA = digits_sha256()


def network(folder: Path, compression: str, text: str = SWEEP, **changes: Any) -> Network:
    """Of the sweep's first cell, with this compression; changes: of what is planned."""
    planned = plan(folder, text)[0]
    planned = replace(planned, cell=replace(planned.cell, compression=compression), **changes)
    return Network(planned, DATA, folder / "checkpoints")


def write_checkpoint(folder: Path) -> None:
    """The dense network of UNTRAINED, as training leaves it."""
    spec, how = plan(folder, UNTRAINED)[0].cell.model, recipe.load("digits")
    path = checkpoint.folder(folder / "checkpoints", spec, "digits", how, DATA)
    path.mkdir(parents=True)
    (path / checkpoint.WEIGHTS).write_bytes(b"trained")
    manifest = checkpoint.Manifest(
        key=checkpoint.key(spec, "digits", how),
        sha256=cache.hash_file(path / checkpoint.WEIGHTS),
        model=checkpoint.describe(spec),
        dataset="digits",
        data_sha256=DATA,
        recipe=how,
        val_top1_fraction=190 / N,
        val_n=N,
        test_top1_fraction=190 / N,
        test_n=N,
        seconds=60.0,
        versions={},
        finished_at=checkpoint.now(),
    )
    checkpoint.write(path, manifest)


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        ("dense", Compression()),
        ("weight90", Compression("weight", 0.9)),
        ("uniform90", Compression("uniform", 0.9)),
        ("channel33_shrunk", Compression("channel", 0.33, shrunk=True)),  # also none of the recipe's levels
    ],
)
def test_an_untrained_network_is_pruned_by_hand(tmp_path: Path, name: str, compression: Compression) -> None:
    found = network(tmp_path, name, UNTRAINED.replace(*STILL))
    assert (found.resolved, found.invalid_reason, found.is_unfinished) == (compression, "", False)
    assert found.weights.origin == "untrained"


def test_an_untrained_network_has_no_elbow(tmp_path: Path) -> None:
    found = network(tmp_path, "channel@elbow_shrunk", UNTRAINED.replace(*STILL))
    assert found.invalid_reason == (
        "mine is untrained, so there is no elbow: give the level by hand, as in channel80_shrunk"
    )
    with pytest.raises(ValueError, match="mine is untrained"):
        _ = found.key


@pytest.mark.parametrize(
    ("name", "trains", "finetunes"),
    [
        ("dense", True, False),
        ("weight90", True, True),
        ("weight@elbow", True, True),
    ],
)
def test_what_a_sweep_has_to_train(tmp_path: Path, name: str, trains: bool, finetunes: bool) -> None:
    found = network(tmp_path, name, UNTRAINED)
    assert (found.must_train, found.must_finetune, found.is_unfinished) == (trains, finetunes, True)
    assert found.invalid_reason == ""
    for other in (
        network(tmp_path, name, UNTRAINED, unbuildable="not on this target"),
        network(tmp_path, name, UNTRAINED.replace(*STILL)),
    ):
        assert not other.is_unfinished
    write_checkpoint(tmp_path)
    found = network(tmp_path, name, UNTRAINED)
    assert (found.must_train, found.must_finetune) == (False, finetunes)
    assert found.weights.origin == "trained"


def test_without_a_recipe_to_prune_by_nothing_is_trained_on(tmp_path: Path) -> None:
    text = SWEEP.replace('finetuning = "digits_finetune"\n', "")
    by_hand, elbow = network(tmp_path, "weight90", text), network(tmp_path, "weight@elbow", text)
    assert (by_hand.is_unfinished, elbow.is_unfinished) == (False, False)
    assert (by_hand.resolved, by_hand.weights.finetuning) == (Compression("weight", 0.9), "")
    assert elbow.invalid_reason == (
        "mine has no recipe to prune it by, so there is no elbow: give the level by hand, as in weight80"
    )


@pytest.mark.parametrize("text", [SWEEP, SWEEP.replace(*STILL), UNTRAINED])
def test_a_level_that_the_recipe_does_not_have(tmp_path: Path, text: str) -> None:
    found = network(tmp_path, "weight85", text)
    assert not found.is_unfinished
    assert found.invalid_reason == (
        "recipe digits_finetune has no weight level 0.85, only 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99"
    )


@pytest.mark.parametrize("name", ["weight90", "weight@elbow"])
def test_what_is_not_pruned_yet_names_the_command(tmp_path: Path, name: str) -> None:
    text = SWEEP.replace(*STILL)
    write_levels(plan(tmp_path, text)[0].cell.model, "weight", [190] * 5, tmp_path / "checkpoints")
    found = network(tmp_path, name, text)
    assert not found.is_unfinished
    assert found.invalid_reason == (
        f"recipe digits_finetune has not pruned mine to {name}: `invoke prune --sweep ... --model mine "
        "--dataset digits --technique weight` does, or train = true in the sweep"
    )
    # A sweep that trains would make it, and has nothing to make of a level that is there.
    assert network(tmp_path, name).must_finetune
    assert not network(tmp_path, "weight80").must_finetune


def test_a_level_that_is_there_brings_its_weights(tmp_path: Path) -> None:
    write_levels(plan(tmp_path)[0].cell.model, "weight", [190, 100, 1, 1, 1, 1], tmp_path / "checkpoints")
    found = network(tmp_path, "weight90")
    assert (found.is_unfinished, found.resolved) == (False, Compression("weight", 0.9))
    assert (found.weights.finetuning, found.weights.finetune_seconds) == ("digits_finetune", 5 * 1.5)
    assert found.weights.path is not None
    assert found.weights.path.parent.name.startswith("90-")
    assert found.dense_weights.finetuning == ""
    others = [network(tmp_path, name) for name in ("dense", "weight80", "channel90")]
    assert len({each.key for each in [found, *others[:2]]}) == 3
    assert others[2].must_finetune  # the other technique has levels of its own


def test_the_elbow_is_a_level_and_its_weights(tmp_path: Path) -> None:
    spec = plan(tmp_path)[0].cell.model
    write_levels(spec, "weight", [190, 190, 189, 186, 185, 190, 50, 20], tmp_path / "checkpoints")
    found = network(tmp_path, "weight@elbow")
    assert (found.is_unfinished, found.invalid_reason) == (False, "")
    assert found.resolved == Compression("weight", 0.7)
    by_hand = network(tmp_path, "weight70").weights
    assert by_hand.finetune_seconds == 3 * 1.5
    # All levels were trained to find it.
    assert found.weights == replace(by_hand, finetune_seconds=7 * 1.5)
    assert found.key == network(tmp_path, "weight70").key


def test_an_elbow_may_be_nowhere(tmp_path: Path) -> None:
    count = 1 + len(HOW.channel_levels)
    spec = plan(tmp_path)[0].cell.model
    write_levels(spec, "channel", [190, *[100] * (count - 1)], tmp_path / "checkpoints")
    found = network(tmp_path, "channel@elbow")
    assert not found.is_unfinished
    assert found.invalid_reason == "no level of channel pruning stays within 2% of the dense network"


def test_levels_of_a_trained_network(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    spec = plan(tmp_path, UNTRAINED)[0].cell.model
    write_levels(spec, "channel", [190, 190, 190], tmp_path / "checkpoints", "digits")
    found = network(tmp_path, "channel10_shrunk", UNTRAINED)
    assert (found.is_unfinished, found.resolved) == (False, Compression("channel", 0.1, shrunk=True))
    assert (found.weights.origin, found.weights.recipe, found.weights.seconds) == ("trained", "digits", 60.0)
    assert (found.weights.finetuning, found.weights.finetune_seconds) == ("digits_finetune", 3.0)
    # Removing the channels takes no other weights than leaving them at zero, and is another network.
    zeros = network(tmp_path, "channel10", UNTRAINED)
    assert zeros.weights == found.weights
    assert zeros.key != found.key


def test_levels_of_other_data_do_not_count(tmp_path: Path) -> None:
    write_levels(plan(tmp_path)[0].cell.model, "weight", [190, 190], tmp_path / "checkpoints")
    found = network(tmp_path, "weight50")
    assert found.has_levels
    assert not replace(found, data_sha256="e" * 64).has_levels
    assert replace(found, data_sha256="").has_levels  # there is none to compare with


def test_what_is_damaged_is_a_fault_and_nothing_is_trained_over_it(tmp_path: Path) -> None:
    write_levels(plan(tmp_path)[0].cell.model, "weight", [190, 190], tmp_path / "checkpoints")
    (path,) = (tmp_path / "checkpoints").glob("digits/mine/*/50-*")
    (path / checkpoint.WEIGHTS).write_bytes(b"something else")
    found = network(tmp_path, "weight50")
    assert "is not what was trained" in str(found.fault)
    assert (found.is_unfinished, found.is_resolved, found.invalid_reason) == (False, False, "")
    assert found.weights.reason == str(found.fault)
    assert network(tmp_path, "dense").fault is None
