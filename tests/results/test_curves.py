"""Accuracy against compression, in words and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dlas.results.curves import Curve, plot, to_svg, to_table
from dlas.values import LevelPoint, Weights

SVG = "{http://www.w3.org/2000/svg}"


def curve(network: str, technique: str, chosen: int | None, val: tuple[int, ...]) -> Curve:
    """Levels in steps of 20% with so many of 270 validation images right; test is one of 360 less."""
    points = tuple(
        LevelPoint(i / 5, i / 5 - 0.002 * bool(i), k / 270, 270, (k - 1) / 360, 360, Weights("trained"))
        for i, k in enumerate(val)
    )
    return Curve(network, "digits", technique, points, None if chosen is None else points[chosen], 0.01)


WEIGHT = curve("resnet18", "weight", 2, (268, 270, 267, 30))
CHANNEL = curve("resnet18", "channel", None, (268, 200))


def texts(svg: str) -> list[str]:
    """What is to be read without a pointer."""
    return [str(node.text) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


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


def test_plot_has_a_panel_for_each_curve_and_marks_the_elbow() -> None:
    drawn = texts(to_svg([WEIGHT, CHANNEL, curve("vgg16", "weight", 1, (268, 268))]))
    titles = [text for text in drawn if text.endswith("pruning")]
    assert titles == [WEIGHT.title, CHANNEL.title, "vgg16 on digits, weight pruning"]
    assert [drawn.count(text) for text in ("elbow: 40%", "elbow: 20%", "no level holds")] == [1, 1, 1]
    for text in ("validation", "its 95% interval", "test, with its 95% interval", "top-1 (%)", "elbow"):
        assert drawn.count(text) == 1
    assert drawn.count("the elbow's least: dense on validation less 1%") == 1
    assert drawn.count("level of compression (% of the weights or channels)") == 1
    assert drawn.count("0") == 6  # both axes of all panels begin at the same number


def test_a_point_tells_its_share_where_a_pointer_rests() -> None:
    titles = [str(node.text) for node in ElementTree.fromstring(to_svg([WEIGHT])).iter(f"{SVG}title")]
    chosen = "validation at 40%: 98.9% (96.8% .. 99.6%) of 270"
    assert titles.count(chosen) == 2  # of the point, and of the diamond around it
    assert titles.count("test at 60%: 8.1% (5.7% .. 11.3%) of 360") == 1


def test_a_drop_beyond_all_accuracy_still_fits() -> None:
    assert "elbow: 60%" in texts(to_svg([replace(WEIGHT, chosen=WEIGHT.points[-1], max_drop_fraction=1.0)]))


def test_limits_are_those_of_the_lowest_curve() -> None:
    high = curve("resnet18", "weight", 1, (270, 268))
    high = replace(high, points=tuple(replace(point, test_top1_fraction=1.0) for point in high.points))
    assert "0" not in texts(to_svg([high]))[-8:]
    assert texts(to_svg([high, CHANNEL])).count("60") == 4


def test_plot_is_a_file_of_the_same_bytes_again(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "digits" / "elbow.svg"
    plot([CHANNEL], path)
    plot([WEIGHT], path)
    assert path.read_text() == to_svg([WEIGHT]) == to_svg([WEIGHT])
    assert path.read_text() != to_svg([replace(WEIGHT, points=WEIGHT.points[:3])])
    assert [file.name for file in path.parent.iterdir()] == ["elbow.svg"]


def test_nothing_to_plot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve"):
        plot([], tmp_path / "none.svg")
    assert to_table([]) == ""
