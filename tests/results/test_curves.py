"""Accuracy against compression, in words and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dlas.results.curves import Curve, plot, to_table
from dlas.values import LevelPoint, Weights


def curve(network: str, technique: str, chosen: int | None, val: tuple[int, ...]) -> Curve:
    """Levels in steps of 20% with so many of 270 validation images right; test is one of 360 less."""
    points = tuple(
        LevelPoint(i / 5, i / 5 - 0.002 * bool(i), k / 270, 270, (k - 1) / 360, 360, Weights("trained"))
        for i, k in enumerate(val)
    )
    return Curve(network, "digits", technique, points, None if chosen is None else points[chosen], 0.01)


WEIGHT = curve("resnet18", "weight", 2, (268, 270, 267, 30))
CHANNEL = curve("resnet18", "channel", None, (268, 200))


def texts(path: Path) -> list[str]:
    """What matplotlib says it has drawn as text, in its comments."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    return [str(node.text).strip() for node in root.iter() if node.tag is ElementTree.Comment]


def test_table_of_a_curve_with_its_elbow() -> None:
    title, headings, *levels = to_table([WEIGHT]).splitlines()
    assert title == "resnet18 on digits, weight pruning: the elbow may lose 1% of the validation images"
    assert headings.split("  ")[-1].strip() == "test top-1"
    assert (
        len({line.index(" of 270") for line in levels})
        == len({line.index(" of 360") for line in levels})
        == 1
    )
    assert [" ".join(line.split()) for line in levels] == [
        "0% 0.0% 99.3% (97.3% .. 99.8%) of 270 0 74.2% (69.4% .. 78.4%) of 360 dense",
        "20% 19.8% 100.0% (98.6% .. 100.0%) of 270 -2 74.7% (70.0% .. 78.9%) of 360",
        "40% 39.8% 98.9% (96.8% .. 99.6%) of 270 1 73.9% (69.1% .. 78.2%) of 360 <- elbow",
        "60% 59.8% 11.1% (7.9% .. 15.4%) of 270 238 8.1% (5.7% .. 11.3%) of 360",
    ]


def test_table_of_a_curve_without_one() -> None:
    first, second = to_table([WEIGHT, CHANNEL]).split("\n\n")
    assert first == to_table([WEIGHT])
    assert second.splitlines()[0] == (
        "resnet18 on digits, channel pruning: the elbow may lose 1% of the validation images; no level holds"
    )
    assert "elbow" not in second.splitlines()[-1]


def test_plot_has_a_panel_for_each_curve_and_marks_the_elbow(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "digits" / "elbow.svg"
    plot([WEIGHT, CHANNEL, curve("vgg16", "weight", 1, (268, 268))], path)
    drawn = texts(path)
    titles = [text for text in drawn if text.endswith("pruning")]
    assert sorted(titles) == sorted([WEIGHT.title, CHANNEL.title, "vgg16 on digits, weight pruning"])
    assert [drawn.count(text) for text in ("elbow: 40%", "elbow: 20%", "no level holds")] == [1, 1, 1]
    for text in ("validation", "its 95% interval", "test, with its 95% interval", "top-1 (%)", "elbow"):
        assert drawn.count(text) == 1
    assert "the elbow's least: dense on validation less 1%" in drawn
    assert "level of compression (% of the weights or channels)" in drawn


def test_plot_is_the_same_bytes_again_whatever_a_user_has_set(tmp_path: Path) -> None:
    import matplotlib

    plot([WEIGHT], tmp_path / "one.svg")
    with matplotlib.rc_context({"axes.grid": True, "svg.hashsalt": "other", "font.size": 20}):
        plot([WEIGHT], tmp_path / "two.svg")
        assert matplotlib.rcParams["font.size"] == 20
    one = (tmp_path / "one.svg").read_bytes()
    assert one == (tmp_path / "two.svg").read_bytes()
    assert b"dc:date" not in one
    lost = replace(WEIGHT, points=WEIGHT.points[:3])
    plot([lost], tmp_path / "two.svg")
    assert one != (tmp_path / "two.svg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]


def test_nothing_to_plot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve"):
        plot([], tmp_path / "none.svg")
    assert to_table([]) == ""
