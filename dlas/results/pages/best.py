"""Which configuration is best per device and network within a bound on accuracy: what is asked first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dlas.results import verdict
from dlas.results.choice import Candidate, Choice, choose, fastest_dense
from dlas.results.floors import Floors
from dlas.results.lines import Line, grouped, judge
from dlas.results.pages import words
from dlas.results.pages.page import Chapter, Part, Table, Text
from dlas.results.places import Section, contests_of
from dlas.results.tables import NONE, count

HEADINGS = (
    *("network", "best configuration", "time (95% interval)", "to dense fp32", "top-1 (95% interval)"),
    *("points to dense fp32", "weights", "not told apart from it"),
)
_NAMED = 3  # of what cannot be told apart from the best


def chapter(sections: Sequence[Section], floors: Floors, drop_fraction: float) -> Chapter:
    points = f"{100 * drop_fraction:g}"
    parts: list[Part] = [
        Text(
            f"The fastest configuration that loses at most {points} of top-1 accuracy, in points of 100, "
            "against the same network dense in fp32, image by image: the 95% interval of the difference must "
            f"lie above -{points}. A configuration whose interval holds -{points} is undecided, and named "
            "below where it would be faster. Times are medians over processes."
        )
    ]
    for section in sections:
        for lines in grouped(section.timed, lambda line: line.first.dataset):
            parts += _answers(section, lines, floors.of(section.first), drop_fraction)
    return Chapter(f"Best configurations at {points} point of accuracy", tuple(parts))


def _answers(section: Section, lines: Sequence[Line], noise: float, drop_fraction: float) -> Iterable[Part]:
    """For one device and dataset: of all networks together, then of each."""
    overall = choose(lines, drop_fraction, noise)
    yield Text(f"{section.title}; {lines[0].first.dataset}. {_sentence(overall)}", tuple(_faster(overall)))
    rows: list[tuple[str, ...]] = []
    ids: list[tuple[str, ...]] = []
    strong: list[int] = []
    for contest in contests_of(lines):
        choice = choose(contest, drop_fraction, noise)
        if choice.best and overall.best and choice.best.line is overall.best.line:
            strong.append(len(rows))
        rows.append(_row(contest, choice, noise))
        ids.append(choice.best.line.ids if choice.best else ())
    yield Table(HEADINGS, tuple(rows), tuple(ids), f"On {section.short_title}.", tuple(strong))


def _sentence(choice: Choice) -> str:
    best, reference = choice.best, choice.reference
    if best is None:
        why = "no network has an accuracy" if reference is None else "none is known to hold the bound"
        return f"No configuration can be named: {why}."
    row = reference.first if reference else best.line.first
    told = (
        f"Over all networks, against {row.model} dense in fp32 "
        f"({reference.accuracy if reference else NONE}), the "
        f"best is {best.line.name}: {words.time(best.line.summary)}, top-1 {best.line.accuracy}."
    )
    if choice.equals:
        told += f" Not told apart from it: {_names([each.line.name for each in choice.equals])}."
    return told


def _faster(choice: Choice) -> Iterable[str]:
    """What would be faster, if its accuracy were known to hold."""
    if choice.reference is None:
        return
    for each in choice.faster[:_NAMED]:
        gain = f", {words.speedup(each.verdict)} as fast as the best" if each.verdict else ""
        yield f"{each.line.name} would be faster{gain}, but its accuracy is open: {each.doubt}."
    more = len(choice.faster) - _NAMED
    if more > 0:
        yield f"So would {count(more, 'more configuration')}."


def _row(contest: Sequence[Line], choice: Choice, noise: float) -> tuple[str, ...]:
    best, model = choice.best, contest[0].first.model
    if best is None:
        fastest = choice.faster[0].line if choice.faster else None
        why = "none holds the bound" if choice.reference else "no accuracy"
        told = f"{why}; fastest: {fastest.configuration}" if fastest else why
        return model, told, *[NONE] * (len(HEADINGS) - 2)
    return (
        model,
        best.line.configuration,
        words.time(best.line.summary),
        _to_dense(best, contest, noise),
        best.line.accuracy,
        words.difference(best.accuracy),
        words.size(best.line),
        _names([each.line.configuration for each in choice.equals], 1) or NONE,
    )


def _to_dense(best: Candidate, contest: Sequence[Line], noise: float) -> str:
    """How much faster than the fastest line of the same network dense in fp32."""
    fastest = fastest_dense(line for line in contest if line.is_publishable)
    if fastest is None or fastest is best.line:
        return NONE if fastest is None else "it is"
    judged = judge(best.line, fastest, noise)
    mark = "" if judged.word == verdict.FASTER else f", {judged.word}"
    return words.speedup(judged) + mark


def _names(names: Sequence[str], most: int = _NAMED) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
