"""What searches for schedules found, over the trials that they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlas.results.charts import grid
from dlas.results.charts.axes import Axis, Interval
from dlas.results.charts.marks import Mark, Rule, Series
from dlas.results.charts.plots import Plot
from dlas.results.charts.styles import line_style
from dlas.results.pages.page import Chapter, Figure, Text, href, title_of


@dataclass(frozen=True)
class SearchCurve:
    """The search for one tuned line: after how many trials of each workload its convolutions took how long.

    name: its cell. points: trials and the sum over the convolutions of the best so far, in parts of the hand
    schedule's. ids: of the line's rows.
    """

    name: str
    points: tuple[tuple[int, float], ...]
    ids: tuple[str, ...]


def searches_chapter(found: Sequence[SearchCurve]) -> Chapter | None:
    """None where nothing was tuned."""
    if not found:
        return None
    lead = Text(
        "The sum over a network's convolutions of the best time so far, in parts of the hand schedule's, "
        "after so "
        "many trials of each. These are times of single convolutions as the search saw them; what they come "
        "to in "
        "the network is among the times above."
    )
    panels = [
        Plot(
            curve.name,
            Axis("trials of each convolution"),
            Axis(),
            (Series("", tuple(_mark(curve, *point) for point in curve.points), line_style(0)),),
            rules=(Rule(Interval(1.0), is_horizontal=True, text="hand schedule"),),
        )
        for curve in found
    ]
    title = "Best of the search over its trials"
    svg = grid.grid(panels, 2, title, y_label="of the hand schedule's time")
    return Chapter("What searches found", (lead, Figure("searches", svg, f"{title}.")))


def _mark(curve: SearchCurve, trials: int, share: float) -> Mark:
    told = title_of(curve.ids, f"{curve.name}: {share:.3f} after {trials} trials")
    return Mark(Interval(trials), Interval(share), title=told, href=href(curve.ids))
