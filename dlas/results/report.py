"""Rows as text: what is fastest, how sure that is, and what did not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from math import isfinite

from dlas.errors import StorageError
from dlas.results import statistics
from dlas.results.effort import total_seconds
from dlas.results.entries import Entry
from dlas.results.lines import Line, grouped
from dlas.results.places import Section, contests_of
from dlas.results.tables import NONE, count, printable, unit_of

_HEADINGS = ("median", "IQR", "95% interval", "ratio", "runs", "max error", "top-1", "status", "cell")
_SHOWN = 1000  # lines in all, and of each network on a device at least
_LEAST_SHOWN = 5
_TOP1 = _HEADINGS.index("top-1")
_FEW = (
    f"* fewer than {statistics.MIN_DRAWN} processes: the interval is too narrow, and that of one process\n"
    "  covers only the noise inside it; `--replicates` adds processes"
)

Key = tuple[str | int, ...]


def describe(
    sections: Sequence[Section],
    problems: Sequence[StorageError] = (),
    hidden: int = 0,
    width: int | None = None,
) -> str:
    """Rows as text, then what was not read and how many are not shown. No newline at the end.

    sections, width: as for `render`; hidden: rows of older code, or that newer ones replaced.
    """
    notes = [f"not read: {line}" for line in _unread(problems)]
    if hidden:
        notes.append(f"not shown: {count(hidden, 'row')} of older code, or replaced by newer or longer ones")
    return "\n".join([*([render(sections, width)] if sections else []), *notes])


def _unread(problems: Iterable[StorageError]) -> list[str]:
    """One line for each way in which files cannot be read: those of an older dlas are all alike."""
    lines = []
    for group in grouped(problems, lambda problem: (problem.cause.partition(".parquet: ")[2],)):
        more = f" (and {count(len(group) - 1, 'more file')} like it)" if len(group) > 1 else ""
        lines.append(f"{group[0]}{more}")
    return lines


def render(sections: Sequence[Section], width: int | None = None) -> str:
    """The sections (target, device, runner, threads), emulated ones last; then a count.

    sections: one or more, of rows as `entries.latest` gives them. Ratios are to the fastest publishable line
    of the same dataset and model in the section, or to the fastest where none is publishable. width: columns
    of the terminal; None, right for a pipe, keeps one line for each cell however long.
    """
    rows = [row for section in sections for row in section.rows]
    contests = sum(len(contests_of(section.timed)) for section in sections)
    most = max(_LEAST_SHOWN, _SHOWN // max(1, contests))
    parts = [_section(section, most, width) for section in sections]
    counts = [f"{number} {status}" for status, number in sorted(Counter(row.status for row in rows).items())]
    notes = [f"{count(len(rows), 'row')}: {', '.join(counts)}"]
    if spent := total_seconds(rows):
        notes.append("time: " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in spent.items()))
    if any(len(line.rows) < statistics.MIN_DRAWN for section in sections for line in section.timed):
        notes.insert(0, _FEW)
    return "\n\n".join([*parts, "\n".join(notes)])


def _section(section: Section, most: int, width: int | None) -> str:
    timed, others = section.timed, section.others
    lines = [section.title]
    if timed:
        lines += _table(timed, most, width)
    if timed and others:
        lines.append("  no time that counts:")
    return "\n".join(lines + [_remark(row) for row in others])


def _table(lines: Sequence[Line], most: int, width: int | None) -> list[str]:
    """A heading, then so many lines of each contest, fastest first, with an empty line between contests."""
    unit, scale = unit_of(min(line.median_ns for line in lines))
    groups: list[list[tuple[str, ...]]] = [[(f"{_HEADINGS[0]} {unit}", *_HEADINGS[1:])]]
    contests = contests_of(lines)
    for contest in contests:
        ranked = sorted(contest, key=lambda line: line.median_ns)
        best = next((line for line in ranked if line.is_publishable), ranked[0])
        groups.append([_fields(line, best.median_ns, scale) for line in ranked[:most]])
    left_out = sum(max(0, len(contest) - most) for contest in contests)
    more = [f"  {count(left_out, 'slower line')} not shown; `--only` chooses"] if left_out else []
    return _layout(groups, width) + more


def _layout(groups: Sequence[Sequence[tuple[str, ...]]], width: int | None) -> list[str]:
    """Aligned columns; the first group is the heading. Where they do not fit, each name gets its own line."""
    if all(row[_TOP1] == NONE for group in groups[1:] for row in group):
        groups = [[(*row[:_TOP1], *row[_TOP1 + 1 :]) for row in group] for group in groups]
    widths = [max(map(len, column)) for column in zip(*chain(*groups), strict=True)]
    is_narrow = width is not None and sum(widths) + 2 * len(widths) > width
    text = []
    for number, group in enumerate(groups):
        if number > 1:
            text.append("")
        for *numbers, status, name in group:
            padded = [field.rjust(size) for field, size in zip(numbers, widths, strict=False)]
            if not is_narrow:
                text.append("  " + "  ".join([*padded, status.ljust(widths[-2]), name]))
                continue
            accuracy = "".join(padded[_TOP1:]).strip()
            if number > 0:
                text.append(f"  {name}" + (f"  top-1 {accuracy}" if accuracy else ""))
            text.append("    " + "  ".join([*padded[:_TOP1], status]))
    return text


def _fields(line: Line, best_ns: float, scale: float) -> tuple[str, ...]:
    summary = line.summary
    interval = NONE
    if isfinite(summary.high_ns):
        mark = " " if summary.covers_processes else "*"
        interval = f"{summary.low_ns / scale:.3f} .. {summary.high_ns / scale:.3f}{mark}"
    return (
        f"{summary.median_ns / scale:.3f}",
        f"{summary.iqr_ns / scale:.3f}",
        interval,
        f"{summary.median_ns / best_ns:.2f}x" if best_ns else NONE,
        line.runs,
        NONE if line.max_error is None else f"{line.max_error:.1e}",
        line.accuracy,
        line.status,
        line.name,
    )


def _remark(row: Entry) -> str:
    """One line for a row without times."""
    subject = row.cell + (f" (replicate {row.replicate})" if row.replicate else "")
    fact = row.reason
    if not fact and row.max_error_over_scale is not None:
        fact = f"max error {row.max_error_over_scale:.1e}"
    return printable(f"  {row.status.ljust(12)}  {subject}" + (f": {fact}" if fact else ""))
