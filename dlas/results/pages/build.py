"""The page of a sweep, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from dlas.errors import StorageError
from dlas.results import curves, observations
from dlas.results.curves import Curve
from dlas.results.entries import Entry
from dlas.results.floors import Floors
from dlas.results.lines import Line
from dlas.results.pages import best, facts, fronts, times
from dlas.results.pages.page import LINKED, Chapter, Figure, Page, Table, Text
from dlas.results.pages.searches import SearchCurve, searches_chapter
from dlas.results.places import Section, contests_of, sections_of
from dlas.results.tables import count

DETAILED = 24  # networks on a device; with all of many a page would be too long to be read
OBSERVED_LINES = 2000  # what they compare grows with the square of the networks


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    rows: those that count today, and the sections they are in; hidden: how many do not; problems: files not
    read. curves, notes: of accuracy against compression, and why some are missing; searches: what tuning
    found when.
    """

    sweep: str
    rows: Sequence[Entry]
    sections: Sequence[Section]
    floors: Floors
    hidden: int = 0
    problems: Sequence[StorageError] = ()
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    searches: Sequence[SearchCurve] = field(default=())


def build(material: Material, drop_fraction: float) -> Page:
    """Chapters from what is asked first to what stands behind it. rows: one or more."""
    sections = material.sections
    real = [section for section in sections if not section.is_emulated and section.timed]
    chapters: list[Chapter | None] = []
    detailed, left_out = _detailed(real)
    if real:
        chapters += [
            best.chapter(real, material.floors, drop_fraction),
            fronts.chapter(real),
            times.bars_chapter(detailed, left_out),
            times.sparse_chapter(detailed, material.floors),
            searches_chapter(material.searches),
        ]
    chapters += [
        _elbows(material),
        _observed(material, sum(len(section.timed) for section in real)) if real else None,
        facts.coverage(sections, material.problems, material.hidden),
        facts.oddities(real, detailed, material.floors) if real else None,
        facts.effort(material.rows),
        facts.provenance(material.rows, material.sweep),
    ]
    made = [chapter for chapter in chapters if chapter is not None]
    lines = _mentioned(made, chain.from_iterable(section.timed for section in real))
    if lines:
        made.append(facts.rows_chapter(lines))
    lead = (
        f"{count(len(material.rows), 'row')} on {count(len(real), 'device')}; medians with 95% intervals "
        "over processes, each figure with the ids of its rows."
    )
    return Page(f"Sweep {material.sweep}", lead, tuple(made))


def _detailed(sections: Sequence[Section]) -> tuple[list[Section], int]:
    """Sections with the networks that are shown in detail, and how many networks on a device are not."""
    contests = [contest for section in sections for contest in contests_of(section.timed)]
    shown = contests[:DETAILED]
    kept = sections_of(row for contest in shown for line in contest for row in line.rows)
    return kept, len(contests) - len(shown)


def _elbows(material: Material) -> Chapter | None:
    if not material.curves:
        return None
    svg = curves.to_svg(material.curves)
    tables = [_levels(curve) for curve in material.curves]
    notes = [Text("", tuple(material.notes))] if material.notes else []
    caption = (
        "Accuracy against the level of compression, after fine-tuning at each level; intervals are Wilson's."
    )
    return Chapter("What compression costs", (Figure("elbows", svg, caption), *tables, *notes))


def _levels(curve: Curve) -> Table:
    headings, rows = curves.fields(curve)
    strong = tuple(index for index, point in enumerate(curve.points) if point == curve.chosen)
    return Table(headings, tuple(rows), (), f"{curve.title}; the elbow stands out.", strong)


def _observed(material: Material, lines: int) -> Chapter:
    if lines > OBSERVED_LINES:
        told = (
            f"Not asked of {count(lines, 'line')}, which takes minutes; `invoke observe --only` asks of some."
        )
        return Chapter("Observations", (Text(told),))
    found = observations.observe(material.rows, material.floors)
    rows = tuple((each.word, each.statement, each.because) for each in found)
    lead = Text(
        "The paper's observations, asked of these rows; `invoke observe` shows all that each rests on."
    )
    ids = tuple(each.examples[0].ids if each.examples else () for each in found)
    return Chapter("Observations", (lead, Table(("here it", "statement", "because"), rows, ids)))


def _mentioned(chapters: Iterable[Chapter], lines: Iterable[Line]) -> list[Line]:
    """The lines that tables and figures link to."""
    linked: set[str] = set()
    for part in chain.from_iterable(chapter.parts for chapter in chapters):
        if isinstance(part, Figure):
            linked.update(LINKED.findall(part.svg))
        elif isinstance(part, Table):
            linked.update(ids[0] for ids in part.ids if ids)
    return [line for line in lines if line.ids[0] in linked]
