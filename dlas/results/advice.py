"""The embedded engineer's answer: one configuration for one board, what it costs, and what comes next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dlas.errors import UsageError
from dlas.results.choice import Candidate, Choice, choose, fastest_dense
from dlas.results.entries import Entry
from dlas.results.floors import Floors
from dlas.results.lines import Line, grouped, judge
from dlas.results.pages import words
from dlas.results.places import Section, sections_of
from dlas.results.tables import NONE, aligned, count

_RUNNERS_UP = 5
_OPEN = 3


def advise(rows: Sequence[Entry], target: str, model: str, drop_fraction: float, floors: Floors) -> str:
    """For each device of a target and each dataset, as text without a newline at its end.

    rows: as `entries.latest` gives them. model: a network's name, empty for whichever is best. Raises
    UsageError where no row of the target counts.
    """
    sections = [
        section
        for section in sections_of(row for row in rows if row.target == target)
        if section.timed and not section.is_emulated
    ]
    parts = []
    for section in sections:
        lines = [line for line in section.timed if model in ("", line.first.model)]
        for group in grouped(lines, lambda line: line.first.dataset):
            choice = choose(group, drop_fraction, floors.of(section.first))
            parts.append("\n".join(_answer(section, group, choice, floors)))
    if not parts:
        known = sorted({row.target if model == "" else row.model for row in rows if row.is_timed})
        what = f"target {target}" + (f" and model {model}" if model else "")
        raise UsageError(f"no row of {what} has times", f"there are rows of {', '.join(known) or 'none'}")
    return "\n\n".join(parts)


def _answer(section: Section, lines: Sequence[Line], choice: Choice, floors: Floors) -> Iterable[str]:
    points = f"{100 * choice.drop_fraction:g}"
    yield f"{section.title}; {lines[0].first.dataset}"
    yield f"  {floors.describe(section.first)}"
    reference = choice.reference
    if reference is None:
        yield "  no answer: no publishable row of a dense fp32 network has an accuracy to measure others by"
        return
    row = reference.first
    yield f"  may lose {points} of top-1, in points, against {row.model} dense in fp32: {reference.accuracy}"
    if choice.best is None:
        yield "  no answer: no configuration is known to hold that"
    else:
        yield from _best(choice.best, lines, floors.of(section.first))
        yield from _runners_up(choice)
    yield from _open(choice)


def _best(best: Candidate, lines: Sequence[Line], noise: float) -> Iterable[str]:
    line, row = best.line, best.line.first
    yield f"  take  {line.name}"
    yield f"    time      {words.time(line.summary)}, {line.runs}{_against_dense(best, lines, noise)}"
    yield f"    accuracy  {line.accuracy}; {words.difference(best.accuracy)} points to the reference"
    memory = "" if row.peak_rss_bytes is None else f", {row.peak_rss_bytes / 2**20:.0f} MiB of memory at most"
    search = f", found in {count(row.tuning_trials, 'trial')}" if row.tuning == "tuned" else ""
    yield f"    weights   {words.size(line)}{memory}{search}"
    yield f"    artifact  {row.artifact_sha256[:16]}; `invoke export {row.cell} --to DIR` hands it out"
    yield f"    rows      {' '.join(line.ids)}"


def _against_dense(best: Candidate, lines: Sequence[Line], noise: float) -> str:
    """How it compares with the fastest dense network in fp32 of the same model."""
    fastest = fastest_dense(line for line in lines if line.first.model == best.line.first.model)
    if fastest is None or fastest is best.line:
        return ""
    judged = judge(best.line, fastest, noise)
    return f"; {words.speedup(judged)} as fast as dense in fp32, {judged.word}"


def _runners_up(choice: Choice) -> Iterable[str]:
    if not choice.runners_up:
        return
    yield "  runners-up"
    rows = [("time", "to the best", "it is", "points", "weights", "cell")]
    for each in choice.runners_up[:_RUNNERS_UP]:
        rows.append(
            (
                words.time(each.line.summary),
                f"{each.verdict.ratio:.2f}x" if each.verdict else NONE,
                _word(each),
                words.difference(each.accuracy),
                words.size(each.line),
                each.line.name,
            )
        )
    yield from (f"  {line}" for line in aligned(rows))


def _word(each: Candidate) -> str:
    if each.verdict is None:
        return NONE
    return each.verdict.word + (f": {each.verdict.reason}" if each.verdict.reason else "")


def _open(choice: Choice) -> Iterable[str]:
    """What would be faster than the best, if more were known of its accuracy."""
    if choice.faster:
        yield "  faster, if its accuracy held"
    for each in choice.faster[:_OPEN]:
        gap = words.difference(each.accuracy)
        yield f"    {words.time(each.line.summary)}  {gap} points, {each.doubt}  {each.line.name}"
    if len(choice.faster) > _OPEN:
        yield f"    and {len(choice.faster) - _OPEN} more"
