"""Times of every configuration of a network as bars, and of sparse formats against dense ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlas.results.charts import grid
from dlas.results.charts.axes import Axis, Interval
from dlas.results.charts.bars import Bar, Bars, Group
from dlas.results.charts.marks import Mark, Rule, Series
from dlas.results.charts.plots import Plot
from dlas.results.charts.styles import point_style
from dlas.results.floors import Floors
from dlas.results.lines import Line, grouped, judge
from dlas.results.pages import words
from dlas.results.pages.page import Chapter, Figure, Part, Table, Text, href, title_of
from dlas.results.places import Section, contests_of
from dlas.results.tables import count, unit_of
from dlas.results.verdict import FASTER, SLOWER, Verdict

_BARS = 40  # of one network on one device
_WIDE = 20.0  # from this ratio of the slowest to the fastest on, the axis is logarithmic
SPARSE = ("csr", "csr_packed", "ell", "auto")


def bars_chapter(sections: Sequence[Section], left_out: int = 0) -> Chapter:
    """left_out: how many networks on a device are in no section here, and in others of the page."""
    parts: list[Part] = [
        Text(
            "Medians over processes with their 95% intervals, by compression and precision; the fill is the "
            "algorithm. A bar's name is the format and the schedule. Bars of what is not publishable are "
            "dimmed."
        )
    ]
    for section in sections:
        for contest in contests_of(section.timed):
            parts.append(_bars(section, contest))
    if left_out:
        more = count(left_out, "more network")
        parts.append(Text(f"{more} on a device are left out here and below; `--only` chooses what is shown."))
    return Chapter("Times by algorithm, compression and schedule", tuple(parts))


def _bars(section: Section, contest: Sequence[Line]) -> Figure:
    row = contest[0].first
    ranked = sorted(contest, key=lambda line: line.median_ns)
    shown = ranked[:_BARS]
    unit, scale = unit_of(shown[0].median_ns)
    names = tuple(sorted({line.first.algorithm for line in shown}))
    best = next((line for line in shown if line.is_publishable), shown[0])
    groups = grouped(shown, lambda line: (line.first.compression, line.first.precision))
    groups.sort(key=lambda group: group[0].median_ns)
    chart = Bars(
        f"{row.model} on {row.dataset}",
        Axis(f"median time, {unit}", is_log=shown[-1].median_ns > _WIDE * shown[0].median_ns),
        tuple(
            Group(_heading(group[0]), tuple(_bar(line, names, line is best, scale, unit) for line in group))
            for group in groups
        ),
        names,
    )
    title = f"{row.model} on {row.dataset}, {section.short_title}"
    more = len(ranked) - len(shown)
    left_out = f" The {count(more, 'slowest line')} of {len(ranked)} are left out." if more > 0 else ""
    name = f"times-{row.target}-{row.device[:8]}-{row.dataset}-{row.model}"
    return Figure(name, grid.draw(chart, width_px=860, desc=title), f"{title}.{left_out}")


def _heading(line: Line) -> str:
    compression, _, at = line.configuration.partition("/")
    level = at.partition(" ")[2]
    return f"{compression}{' ' + level if level else ''}, {line.first.precision}"


def _bar(line: Line, names: Sequence[str], is_best: bool, scale: float, unit: str) -> Bar:
    row, summary = line.first, line.summary
    return Bar(
        f"{row.format}, {row.tuning}",
        words.time_interval(summary, scale),
        words.time(summary, scale),
        names.index(row.algorithm),
        title_of(line.ids, f"{line.name}: {words.time(summary)}, {line.runs}, {line.status}"),
        href(line.ids),
        best=is_best,
        dimmed=not line.is_publishable,
    )


@dataclass(frozen=True)
class SparsePair:
    """A sparse line, the dense network in the same algorithm and schedule, and the verdict of the first."""

    sparse: Line
    dense: Line
    verdict: Verdict

    @property
    def level(self) -> float:
        """Share of zero weights."""
        row = self.sparse.first
        return row.weight_sparsity_fraction or row.level_fraction or 0.0


def sparse_chapter(sections: Sequence[Section], floors: Floors) -> Chapter | None:
    """None where nothing ran in a sparse format beside its dense network."""
    parts: list[Part] = []
    for section in sections:
        pairs = sparse_pairs(section.timed, floors.of(section.first))
        for group in grouped(pairs, lambda pair: pair.sparse.first.dataset):
            parts += [_sparse_figure(section, group), _break_even(section, group)]
    if not parts:
        return None
    lead = Text(
        "How many times faster a pruned network is in a sparse format than the same network dense, "
        "unpruned, in "
        "the same algorithm and schedule, over its share of zero weights. It pays above 1. From which share "
        "on "
        "it does is known no closer than the levels that were measured."
    )
    return Chapter("Where sparse kernels pay", (lead, *parts))


def sparse_pairs(lines: Iterable[Line], noise_fraction: float) -> list[SparsePair]:
    """The sparse ones of the lines of one place, each with its dense network where that is there."""
    lines = list(lines)
    dense = {_partner(line): line for line in lines if _is_dense(line)}
    pairs = []
    for line in lines:
        partner = dense.get(_partner(line)) if line.first.format in SPARSE else None
        if partner is not None:
            judged = judge(line, partner, noise_fraction)
            pairs.append(SparsePair(line, partner, judged))
    return pairs


def _is_dense(line: Line) -> bool:
    return line.first.compression == "dense" and line.first.format == "dense"


def _partner(line: Line) -> tuple[str, ...]:
    row = line.first
    return row.dataset, row.model, row.precision, row.algorithm, row.tuning


def _sparse_figure(section: Section, pairs: Sequence[SparsePair]) -> Figure:
    formats = sorted({pair.sparse.first.format for pair in pairs})
    panels = []
    for group in grouped(pairs, lambda pair: pair.sparse.first.algorithm):
        series = tuple(
            Series(
                name,
                tuple(_point(pair) for pair in group if pair.sparse.first.format == name),
                point_style(index),
            )
            for index, name in enumerate(formats)
        )
        rule = Rule(Interval(1.0), is_horizontal=True, text="as fast as dense")
        title = group[0].sparse.first.algorithm
        panels.append(
            Plot(title, Axis("zero weights, %", low=0, high=100), Axis(is_log=True), series, rules=(rule,))
        )
    row = pairs[0].sparse.first
    title = f"Speed of sparse formats against dense on {row.dataset}, {section.short_title}"
    svg = grid.grid(
        panels, 3, title, panel_width_px=290, plot_height_px=230, y_label="times as fast as dense"
    )
    return Figure(f"sparse-{row.target}-{row.device[:8]}-{row.dataset}", svg, f"{title}.")


def _point(pair: SparsePair) -> Mark:
    judged = pair.verdict
    ids = (*pair.sparse.ids, *pair.dense.ids)
    told = f"{pair.sparse.name}: {words.speedup(judged)} as fast as dense, {judged.word}"
    return Mark(
        Interval(100 * pair.level),
        Interval(1 / judged.ratio, 1 / judged.high, 1 / judged.low if judged.low > 0 else None),
        title=title_of(ids, told),
        href=href(pair.sparse.ids),
    )


def _break_even(section: Section, pairs: Sequence[SparsePair]) -> Table:
    """Between which shares of zeros a format begins to pay, for each network, technique and algorithm."""
    rows, ids = [], []
    for group in grouped(pairs, _ladder):
        ranked = sorted(group, key=lambda pair: pair.level)
        best = min(ranked, key=lambda pair: pair.verdict.ratio)
        rows.append((*_ladder(best), _begins(ranked), words.speedup(best.verdict), f"{best.level:.0%}"))
        ids.append(tuple(each for pair in ranked for each in pair.sparse.ids))
    headings = ("network", "pruned by", "algorithm", "format", "faster than dense", "at best", "with zeros")
    return Table(headings, tuple(rows), tuple(ids), f"On {section.short_title}.")


def _ladder(pair: SparsePair) -> tuple[str, str, str, str]:
    row = pair.sparse.first
    return row.model, row.compression.rstrip("0123456789").partition("@")[0], row.algorithm, row.format


def _begins(ranked: Sequence[SparsePair]) -> str:
    """From which level on every measured one is faster, with what the levels below it say."""
    first = len(ranked)
    while first and ranked[first - 1].verdict.word == FASTER:
        first -= 1
    levels = [f"{pair.level:.0%}" for pair in ranked]
    if first == len(ranked):
        word = "slower" if ranked[-1].verdict.word == SLOWER else "undecided"
        return f"not shown: {word} at {levels[-1]}"
    if first == 0:
        return f"from {levels[0]} or less on"
    below = ranked[first - 1].verdict.word
    return f"from {levels[first]} on; {below} at {levels[first - 1]}"
