"""Charts as SVG: where marks stand, what they carry, and that no text hides another."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from dlas.results.charts.axes import Axis, Interval, Scale
from dlas.results.charts.bars import Bar, Bars, Group
from dlas.results.charts.grid import Chart, draw, grid
from dlas.results.charts.marks import Front, Mark, Rule, Series
from dlas.results.charts.plots import Plot
from dlas.results.charts.styles import FILLS, RING, SHAPES, STYLES, Style, line_style, point_style
from dlas.results.charts.svg import Box, text_width

SVG = "{http://www.w3.org/2000/svg}"
WORDS = (
    "direct",
    "spatial pack",
    "weight@60%",
    "channel@elbow",
    "<dense>",
    "&",
    "кириллица",
    "日本",
    "iii",
    "WW",
)


def parse(svg: str) -> Element:
    return ElementTree.fromstring(svg)


def titled(root: Element, title: str) -> Element:
    """The one element that shows this title."""
    (found,) = [node for node in root.iter() if node.findtext(f"{SVG}title") == title]
    return found


def children(node: Element, name: str) -> list[Element]:
    return list(node.iter(f"{SVG}{name}"))


def bounds(data: str) -> Box:
    """Of a path's corners. Arcs are those of circles, which reach from side to side of the path already."""
    x = y = 0.0
    xs, ys = [], []
    for command, given in re.findall(r"([MLHVhvmlaz])([^MLHVhvmlaz]*)", data):
        numbers = [float(number) for number in given.split()]
        base = (x, y) if command.islower() else (0.0, 0.0)
        if command in "Hh":
            x = base[0] + numbers[0]
        elif command in "Vv":
            y = base[1] + numbers[0]
        elif command != "z":
            x, y = base[0] + numbers[-2], base[1] + numbers[-1]
        xs.append(x)
        ys.append(y)
    return Box(min(xs), min(ys), max(xs), max(ys))


def center(node: Element) -> tuple[float, float]:
    """Of the marker inside of an element."""
    box = bounds(children(node, "path")[0].attrib["d"])
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2


def text_boxes(root: Element) -> list[tuple[str, Box]]:
    """Where every text stands, by the estimate of its width."""
    found = []
    for node in children(root, "text"):
        words, size = str(node.text), float(node.attrib["font-size"])
        width = text_width(words, size, node.get("font-weight") == "bold")
        x, y = float(node.attrib["x"]), float(node.attrib["y"])
        left = x - width * {"": 0.0, "middle": 0.5, "end": 1.0}[node.get("text-anchor", "")]
        box = Box(left, y - 0.8 * size, left + width, y + 0.2 * size)
        if moved := re.match(r"translate\(([-\d.]+) ([-\d.]+)\) rotate\(-90\)", node.get("transform", "")):
            dx, dy = map(float, moved.groups())
            box = Box(dx + box.top, dy - box.right, dx + box.bottom, dy - box.left)
        found.append((words, box))
    return found


def drawn_boxes(node: Element) -> Iterator[Box]:
    """Where all else stands; what <defs> only define and what the legend moves is left out."""
    if node.tag == f"{SVG}rect":
        left, top = float(node.get("x", 0)), float(node.get("y", 0))
        yield Box(left, top, left + float(node.attrib["width"]), top + float(node.attrib["height"]))
    elif node.tag == f"{SVG}path":
        yield bounds(node.attrib["d"])
    for child in node:
        if child.tag != f"{SVG}defs" and "transform" not in child.attrib:
            yield from drawn_boxes(child)


def check(svg: str) -> Element:
    """Well-formed, nothing outside of the view, no text on another, no id twice, no id missing."""
    root = parse(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    view = Box(-0.1, -0.1, width + 0.1, height + 0.1)
    texts = text_boxes(root)
    assert [words for words, box in texts if not view.holds(box)] == []
    assert all(map(view.holds, drawn_boxes(root)))
    touching = [(a, b) for (a, one), (b, other) in combinations(texts, 2) if one.overlaps(other)]
    assert touching == []
    assert min(float(node.attrib["font-size"]) for node in children(root, "text")) >= 10
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(ids)
    assert set(root.attrib["aria-labelledby"].split()) <= set(ids)
    return root


def bars(*given: Bar, axis: Axis | None = None, series: tuple[str, ...] = ()) -> Bars:
    return Bars("bars", axis or Axis("ms"), (Group("direct", given),), series)


def plot(*marks: Mark, x: Axis | None = None, y: Axis | None = None, style: Style | None = None) -> Plot:
    style = style or Style(shape="square")
    return Plot("plot", x or Axis("x"), y or Axis("y"), (Series("series", marks, style),))


def at(x: float, y: float, title: str = "", label: str = "") -> Mark:
    return Mark(Interval(x), Interval(y), label, title)


def width_of(row: Element) -> float:
    return float(children(row, "rect")[0].attrib["width"])


def test_a_bar_is_as_long_as_its_value_says() -> None:
    root = check(draw(bars(*(Bar(str(v), Interval(v), title=f"row {v}") for v in (1.0, 2.5, 10.0)))))
    one, *others = (width_of(titled(root, f"row {v}")) for v in (1.0, 2.5, 10.0))
    assert others == pytest.approx([2.5 * one, 10 * one], abs=0.6)


def test_a_bar_on_a_logarithmic_axis_begins_at_a_power_of_ten() -> None:
    values = (2.0, 20.0, 200.0)
    chart = bars(*(Bar(str(v), Interval(v), title=f"row {v}") for v in values), axis=Axis("ms", is_log=True))
    root = check(draw(chart))
    lengths = [width_of(titled(root, f"row {v}")) for v in values]
    assert lengths[0] / (lengths[1] - lengths[0]) == pytest.approx(math.log10(2), abs=0.01)
    assert lengths[2] - lengths[1] == pytest.approx(lengths[1] - lengths[0], abs=0.2)


def test_an_error_bar_ends_where_its_interval_does_and_words_stand_behind_it() -> None:
    root = check(
        draw(bars(Bar("a", Interval(10, 8, 14), "10 ms", title="wide"), Bar("b", Interval(5), "5 ms")))
    )
    row = titled(root, "wide")
    bar, whisker = children(row, "rect")[0], bounds(children(row, "path")[0].attrib["d"])
    px, left = width_of(row) / 10, float(bar.attrib["x"])
    assert (whisker.left, whisker.right) == pytest.approx((left + 8 * px, left + 14 * px), abs=0.2)
    words = dict(text_boxes(root))
    assert words["10 ms"].left > whisker.right
    assert left + 5 * px < words["5 ms"].left < left + 6 * px


@pytest.mark.parametrize("high", [None, math.inf])
def test_an_interval_without_an_end_has_no_error_bar(high: float | None) -> None:
    root = check(draw(bars(Bar("a", Interval(10, 0, high), "10 ms", title="row"))))
    assert children(titled(root, "row"), "path") == []


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    chart = bars(Bar("a", Interval(10, 9, 90), "10 ms", title="row"), axis=Axis("ms", high=20))
    root = check(draw(chart))
    reach = bounds(children(titled(root, "row"), "path")[0].attrib["d"]).right
    assert reach == pytest.approx(
        float(children(titled(root, "row"), "rect")[0].attrib["x"]) + 2 * width_of(titled(root, "row")) + 5,
        abs=0.2,
    )
    assert dict(text_boxes(root))["10 ms"].left > reach


def test_each_series_of_bars_has_a_fill_of_its_own() -> None:
    names = tuple(f"series {i}" for i in range(FILLS))
    root = check(
        draw(
            bars(*(Bar("", Interval(1), series=i, title=name) for i, name in enumerate(names)), series=names)
        )
    )
    looks = []
    for name in names:
        fill = children(titled(root, name), "rect")[0].attrib["fill"]
        found = [node for node in children(root, "pattern") if fill == f"url(#{node.attrib['id']})"]
        looks.append(re.sub(r' id="[^"]*"', "", ElementTree.tostring(found[0], "unicode")) if found else fill)
    assert len(set(looks)) == FILLS
    grey = [re.sub("#17527f|#1a1a1a|#6e6e6e", "grey", look) for look in looks]
    assert len(set(grey)) == FILLS


def test_best_and_dimmed_bars_look_so() -> None:
    given = [Bar("a", Interval(1), best=True, title="best"), Bar("b", Interval(2), dimmed=True, title="dim")]
    root = check(draw(bars(*given, Bar("c", Interval(3), title="plain"))))
    best, dim, plain = (titled(root, title) for title in ("best", "dim", "plain"))
    assert [node.find(f"{SVG}text").get("font-weight") for node in (best, dim, plain)] == ["bold", None, None]
    assert [any("opacity" in part.attrib for part in node.iter()) for node in (best, dim, plain)] == [
        False,
        True,
        False,
    ]
    thick, thin = (float(children(node, "rect")[0].attrib["stroke-width"]) for node in (best, plain))
    assert thick > 2 * thin


@pytest.mark.parametrize(
    ("axis", "values", "shares"),
    [(Axis("x"), (0.0, 2.5, 10.0), (0, 0.25, 1)), (Axis("x", is_log=True), (1e-3, 1.0, 1e6), (0, 1 / 3, 1))],
)
def test_a_point_stands_where_its_values_say(
    axis: Axis, values: tuple[float, ...], shares: tuple[float, ...]
) -> None:
    root = check(draw(plot(*(at(v, v, title=f"row {v}") for v in values), x=axis, y=axis)))
    points = [center(titled(root, f"row {v}")) for v in values]
    for which in (0, 1):
        first, _, last = (point[which] for point in points)
        found = [(point[which] - first) / (last - first) for point in points]
        assert found == pytest.approx(shares, abs=0.002)
    assert points[0][0] < points[2][0]
    assert points[0][1] > points[2][1]


def test_error_bars_of_a_point_end_where_its_intervals_do() -> None:
    marks = (Mark(Interval(10, 8, 14), Interval(1, 0.5, 3), title="a"), at(0, 0, "b"), at(20, 4, "c"))
    root = check(draw(plot(*marks)))
    (path,) = [node for node in children(root, "path") if node.get("stroke-width") == "0.9"]
    box, (x0, y0), (x1, y1) = bounds(path.attrib["d"]), center(titled(root, "b")), center(titled(root, "c"))
    assert ((box.left - x0) / (x1 - x0), (box.right - x0) / (x1 - x0)) == pytest.approx((0.4, 0.7), abs=0.002)
    assert ((box.bottom - y0) / (y1 - y0), (box.top - y0) / (y1 - y0)) == pytest.approx(
        (0.125, 0.75), abs=0.004
    )


def test_a_front_goes_along_x_first() -> None:
    front = Front(((0, 0), (5, 4), (10, 10)))
    chart = Plot("", Axis(), Axis(), (Series("s", (at(0, 0, "a"), at(10, 10, "b")), Style()),), front=front)
    root = check(draw(chart))
    (x0, y0), (x1, y1) = center(titled(root, "a")), center(titled(root, "b"))
    paths = [node.attrib["d"] for node in children(root, "path")]
    (steps,) = [path for path in paths if path.startswith(f"M{x0:g} {y0:g}L")]
    corners = [tuple(map(float, corner.split())) for corner in steps[1:].split("L")]
    shares = [((x - x0) / (x1 - x0), (y - y0) / (y1 - y0)) for x, y in corners]
    assert [x for x, _ in shares] == pytest.approx([0, 0.5, 0.5, 1, 1], abs=0.001)
    assert [y for _, y in shares] == pytest.approx([0, 0, 0.4, 0.4, 1], abs=0.001)


def test_a_rule_has_its_text_and_its_interval() -> None:
    rules = (
        Rule(Interval(60, 50, math.inf), text="break-even", name="pays", title="t"),
        Rule(Interval(1), is_horizontal=True, text="dense"),
    )
    series = Series("s", (at(0, 0), at(100, 2)), line_style(0))
    root = check(draw(Plot("", Axis(low=0, high=100), Axis(), (series,), rules)))
    texts = [words for words, _ in text_boxes(root)]
    assert {"break-even", "pays", "dense"} <= set(texts)
    line = bounds(children(titled(root, "t"), "path")[0].attrib["d"])
    (shade,) = [node for node in children(root, "rect") if node.get("fill") == "#e1ebf3"]
    left, width = float(shade.attrib["x"]), float(shade.attrib["width"])
    assert line.left == line.right == pytest.approx(left + 0.2 * width, abs=0.1)


def test_series_are_told_apart_without_colour() -> None:
    styles = [point_style(i) for i in range(STYLES)]
    assert len({(style.shape, style.fill == "white") for style in styles}) == STYLES
    lines = [line_style(i) for i in range(6)]
    assert len({style.dash for style in lines}) == 6
    root = check(
        draw(
            Plot(
                "",
                Axis(),
                Axis(),
                tuple(Series(f"s{i}", (at(i, i),), style) for i, style in enumerate(lines)),
            )
        )
    )
    dashes = [node.get("stroke-dasharray") for node in children(root, "path") if node.get("d") == "M0 5H26"]
    assert len(set(dashes)) == 6
    assert {style.shape for style in styles} == set(SHAPES)


def test_a_band_is_in_the_legend_and_replaces_error_bars() -> None:
    marks = tuple(Mark(Interval(x), Interval(x, x - 1, x + 1)) for x in (1, 2, 3))
    band = Plot("", Axis(), Axis(), (Series("s", marks, line_style(0), band="its interval"),))
    root = check(draw(band))
    assert "its interval" in [words for words, _ in text_boxes(root)]
    assert not [node for node in children(root, "path") if node.get("stroke-width") == "0.9"]
    single = Plot("", Axis(), Axis(), (Series("s", marks[:1], line_style(0), band="its interval"),))
    root = check(draw(single))
    assert [node for node in children(root, "path") if node.get("stroke-width") == "0.9"]


def test_a_band_lies_between_the_ends_of_its_intervals() -> None:
    marks = (Mark(Interval(0), Interval(1, 0, 4)), Mark(Interval(1), Interval(2, 1, 3)))
    chart = Plot("", Axis(), Axis(low=0, high=4), (Series("s", marks, line_style(0), band="b"),))
    root = check(draw(chart))
    (band,) = [node.attrib["d"] for node in children(root, "path") if node.get("fill") == "#d4d4d4"]
    (_, top), (_, low), (_, high), (_, bottom) = (map(float, p.split()) for p in band[1:-1].split("L"))
    assert [(bottom - y) / (bottom - top) for y in (low, high)] == pytest.approx([0.75, 0.25], abs=0.001)


def test_an_error_bar_beyond_the_axes_has_no_cap() -> None:
    mark = Mark(Interval(10, 8, 90), Interval(10, -90, 90))
    root = check(draw(plot(mark, x=Axis(low=0, high=20), y=Axis(low=0, high=20))))
    (path,) = [node.attrib["d"] for node in children(root, "path") if node.get("stroke-width") == "0.9"]
    assert re.findall(r"[a-zA-Z]", path) == list("MHMvMV")


def test_a_label_stands_on_no_marker_and_rather_on_no_line() -> None:
    line = Series("line", (at(0, 5), at(5, 5, label="label"), at(10, 5)), line_style(1))
    root = check(draw(Plot("", Axis(), Axis(low=0, high=10), (line,))))
    label = dict(text_boxes(root))["label"]
    (middle,) = [
        bounds(n.attrib["d"]).top
        for n in children(root, "path")
        if n.get("stroke-dasharray") and n.get("d") != "M0 5H26"
    ]
    assert not label.top < middle < label.bottom
    crowd = [at(x, y) for x in range(-6, 7) for y in range(-6, 7) if (x, y) != (0, 0)]
    crowded = plot(at(0, 0, label="no room"), *crowd)
    assert "no room" not in dict(text_boxes(check(draw(crowded, 300, 150))))


def test_marks_carry_their_rows_and_lead_to_them() -> None:
    rows = 'rows <1> & "2"\nand 3'
    bar = Bar("a", Interval(1), title=rows, href='#row-"1"&2')
    mark = Mark(Interval(1), Interval(1), title=rows, href="#row-3")
    for chart, href in ((bars(bar), '#row-"1"&2'), (plot(mark), "#row-3")):
        link = titled(check(draw(chart)), rows)
        assert (link.tag, link.attrib["href"]) == (f"{SVG}a", href)


def test_texts_are_escaped() -> None:
    words = '<&"> кириллица 日本語 \x00\ud800'
    root = check(
        draw(
            Bars(words, Axis(words), (Group(words, (Bar(words, Interval(1), words),)),), (words,)), desc=words
        )
    )
    shown = '<&"> кириллица 日本語   '
    assert [text for text, _ in text_boxes(root)].count(shown) == 6
    assert root.findtext(f"{SVG}title") == root.findtext(f"{SVG}desc") == shown


@pytest.mark.parametrize(
    "values",
    [(7.0,), (3.0, 3.0), (1e-3, 1e3), (1e-9, 2e-9), (1e9, 1e9 + 1), (0.99999, 1.0), (123456.0, 123457.0)],
    ids=str,
)
@pytest.mark.parametrize("is_log", [False, True])
def test_hard_values_have_ticks_that_differ(values: tuple[float, ...], is_log: bool) -> None:
    axis = Axis("a label", is_log)
    marks = [Mark(Interval(v, v, v), Interval(v, v, v), "label", f"row {i}") for i, v in enumerate(values)]
    root = check(draw(plot(*marks, x=axis, y=axis)))
    check(draw(bars(*(Bar(str(v), Interval(v, v, v), f"{v} ms") for v in values), axis=axis)))
    assert titled(root, "row 0") is not None
    limits = axis.limits(values)
    labels = [label for _, label in Scale(*limits, is_log, 0, 400).ticks()]
    assert len(set(labels)) == len(labels) >= 2


def test_ticks_of_a_logarithmic_axis_are_1_2_5() -> None:
    ticks = Scale(1, 1000, True, 0, 700).ticks()
    assert [label for _, label in ticks] == ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1,000"]
    assert [label for _, label in Scale(1, 1000, True, 0, 200).ticks()] == ["1", "10", "100", "1,000"]
    assert len(Scale(1e-3, 1e3, True, 0, 200).ticks()) in (3, 4)


def test_wide_labels_of_ticks_stay_apart_and_inside() -> None:
    scale = Scale(123456, 123457, False, 0, 300)
    ticks = scale.ticks()
    gaps = [scale.place(b) - scale.place(a) for (a, _), (b, _) in pairwise(ticks)]
    assert min(gaps) > max(text_width(label, 10) for _, label in ticks) + 10
    assert text_width("bold", bold=True) > text_width("bold")
    check(draw(plot(at(123456, 1), x=Axis(low=123456, high=123457), y=Axis(low=0, high=1))))


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, count)))


def random_interval(rng: random.Random) -> Interval:
    value = 10 ** rng.uniform(-1, 2)
    return Interval(value, value * rng.uniform(0.1, 1), rng.choice([value * rng.uniform(1, 3), math.inf]))


def random_bars(rng: random.Random) -> Bars:
    names = tuple(f"{words(rng, 3)} {i}" for i in range(rng.randint(1, FILLS)))
    groups = tuple(
        Group(
            words(rng, 5),
            tuple(
                Bar(
                    words(rng, 7)[:60],
                    random_interval(rng),
                    words(rng, 3),
                    rng.randrange(len(names)),
                    best=rng.random() < 0.3,
                )
                for _ in range(rng.randint(1, 5))
            ),
        )
        for _ in range(rng.randint(1, 3))
    )
    return Bars(words(rng, 12), Axis(words(rng, 9), rng.random() < 0.5), groups, names)


def random_plot(rng: random.Random) -> Plot:
    series = tuple(
        Series(
            f"{words(rng, 2)} {i}",
            tuple(
                Mark(random_interval(rng), random_interval(rng), words(rng, 3))
                for _ in range(rng.randint(0, 8))
            ),
            rng.choice([point_style, line_style])(i),
        )
        for i in range(rng.randint(1, 6))
    )
    chosen = Series("chosen", (Mark(Interval(1), Interval(1), "the elbow"),), RING)
    rules = tuple(
        Rule(random_interval(rng), rng.random() < 0.5, words(rng, 3)) for _ in range(rng.randint(0, 3))
    )
    axes = [Axis(words(rng, 9), rng.random() < 0.5) for _ in range(2)]
    return Plot(words(rng, 12), *axes, (*series, chosen), rules, note=words(rng, 2))


@pytest.mark.parametrize("make", [random_bars, random_plot])
def test_no_text_hides_another(make: Callable[[random.Random], Chart]) -> None:
    for seed in range(25):
        rng = random.Random(seed)
        check(draw(make(rng), width_px=rng.choice([200, 400, 720]), plot_height_px=rng.choice([80, 250])))


def test_no_text_hides_another_in_grids() -> None:
    for seed in range(8):
        rng = random.Random(seed)
        charts = [rng.choice([random_bars, random_plot])(rng) for _ in range(rng.randint(1, 5))]
        svg = grid(
            [*charts, None],
            rng.randint(1, 3),
            "all",
            panel_width_px=250,
            x_label=words(rng, 9),
            y_label=words(rng, 3),
            has_common_legend=seed % 2 == 0,
        )
        check(svg)


def test_a_label_without_room_is_left_out_but_not_its_title() -> None:
    marks = [at(1, 1, f"row {i}", f"label {i}") for i in range(30)]
    root = check(draw(plot(*marks, at(2, 2))))
    labels = [text for text, _ in text_boxes(root) if text.startswith("label")]
    assert 0 < len(labels) < 30
    assert all(titled(root, f"row {i}") is not None for i in range(30))


def test_panels_have_one_size_and_one_legend() -> None:
    panels = [plot(at(1, 1, f"row {i}")) for i in range(3)]
    svg = grid([*panels[:2], None, panels[2]], 2, "all", "what it is", x_label="common")
    root = check(svg)
    texts = [text for text, _ in text_boxes(root)]
    assert [texts.count(text) for text in ("plot", "series", "common")] == [3, 1, 1]
    (x0, y0), (x1, y1), (x2, y2) = (center(titled(root, f"row {i}")) for i in range(3))
    assert (y0, x1) == (y1, x2)
    assert x0 < x1
    assert y0 < y2
    assert (root.get("role"), root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")) == (
        "img",
        "all",
        "what it is",
    )
    assert root.attrib["viewBox"].split()[2:] == [root.attrib["width"], root.attrib["height"]]
    assert "max-width:100%" in root.attrib["style"]
    own = [text for text, _ in text_boxes(check(grid(panels, 2, "all", has_common_legend=False)))]
    assert own.count("series") == 3


def test_the_same_chart_is_the_same_text_and_others_have_other_ids() -> None:
    charts = [bars(*(Bar("a", Interval(v), series=i) for i in (2, 4)), series=tuple("abcde")) for v in (1, 2)]
    first, second = map(draw, charts)
    assert draw(bars(*(Bar("a", Interval(1), series=i) for i in (2, 4)), series=tuple("abcde"))) == first
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert len(ids[0]) == len(ids[1]) == 4
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interval(math.nan), "finite values, not nan"),
        (lambda: Interval(math.inf), "finite values, not inf"),
        (lambda: Interval(1, math.nan, 2), "cannot go from nan to 2"),
        (lambda: Interval(1, 2, 1), "cannot go from 2 to 1"),
        (lambda: bars(), "no bar in 'bars'"),
        (lambda: plot(), "no mark in 'plot'"),
        (lambda: grid([None], 1, "t"), "no chart"),
        (lambda: bars(Bar("a", Interval(1), series=1), series=("one",)), "none with index 1"),
        (
            lambda: bars(Bar("a", Interval(1), series=FILLS), series=tuple("abcdefghijkl")),
            f"none with index {FILLS}",
        ),
        (lambda: bars(Bar("a", Interval(0)), axis=Axis(is_log=True)), "0 lies outside of the axis"),
        (lambda: bars(Bar("a", Interval(9)), axis=Axis(high=5)), "9 lies outside of the axis"),
        (lambda: plot(at(1, -1), y=Axis(is_log=True)), "-1 lies outside of the axis"),
        (lambda: plot(at(1, 1), x=Axis(low=2, high=1)), "cannot go from 2 to 1"),
        (lambda: plot(at(1, 1), x=Axis(is_log=True, low=0)), "cannot go from 0 to .* in logarithms"),
        (lambda: point_style(STYLES), f"none with index {STYLES}"),
        (lambda: line_style(-1), "none with index -1"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
