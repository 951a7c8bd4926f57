"""What stands behind the numbers: coverage, oddities, time spent, provenance, and the rows themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dlas.cache import digest
from dlas.errors import StorageError
from dlas.results import flags
from dlas.results.charts import grid
from dlas.results.charts.axes import Axis, Interval
from dlas.results.charts.bars import Bar, Bars, Group
from dlas.results.effort import total_seconds
from dlas.results.entries import Entry
from dlas.results.floors import Floors
from dlas.results.lines import Line, grouped
from dlas.results.pages.page import Chapter, Figure, Part, Table, Text
from dlas.results.places import Section
from dlas.results.statistics import MIN_DRAWN
from dlas.results.tables import NONE, count, printable

_REASON = 140  # letters of a reason that are shown
_FLAGGED = 20  # lines


def coverage(sections: Sequence[Section], problems: Sequence[StorageError], hidden: int) -> Chapter:
    """Which cells have which status, and why those without a time have none."""
    statuses = sorted({row.status for section in sections for row in section.rows})
    table = []
    for section in sections:
        found = Counter(row.status for row in section.rows)
        table.append((section.title, *(str(found[status] or NONE) for status in statuses)))
    parts: list[Part] = [Table(("place", *statuses), tuple(table), caption="Rows by status.")]
    without = [row for section in sections for row in section.rows if not row.is_timed and row.reason]
    if without:
        parts.append(_reasons(without))
    notes = [printable(str(problem)) for problem in problems[:_FLAGGED]]
    if hidden:
        notes.append(f"Not shown: {count(hidden, 'row')} of older code, or replaced by newer or longer ones.")
    if notes:
        parts.append(Text("Also:", tuple(notes)))
    return Chapter("Coverage", tuple(parts))


def _reasons(rows: Iterable[Entry]) -> Table:
    groups = grouped(rows, lambda row: (row.status, row.target, row.reason))
    groups.sort(key=len, reverse=True)
    fields = [
        (group[0].status, group[0].target, str(len(group)), _cut(printable(group[0].reason)), group[0].cell)
        for group in groups
    ]
    headings = ("status", "target", "rows", "reason", "such as")
    return Table(headings, tuple(fields), tuple((group[0].id,) for group in groups), "Why rows have no time.")


def _cut(words: str) -> str:
    return words if len(words) <= _REASON else f"{words[: _REASON - 1]}…"


def oddities(sections: Sequence[Section], detailed: Sequence[Section], floors: Floors) -> Chapter:
    """How noisy each place is, and what medians hide of the lines that are shown in detail."""
    parts: list[Part] = [
        Text(
            "A verdict rests on processes and respects the noise floor of its device: by how much the same "
            "artifact differs from itself there. Flags change no verdict; they say where a median hides "
            "something."
        ),
        Text("", tuple(f"{section.short_title}: {floors.describe(section.first)}" for section in sections)),
    ]
    for section in detailed:
        parts += _flagged(section, section.timed)
    return Chapter("Noise, and what medians hide", tuple(parts))


def _flagged(section: Section, lines: Sequence[Line]) -> Iterable[Part]:
    found = flags.of_configurations([line.processes for line in lines])
    processes = [each for line in found for each in line.processes]
    few = sum(len(line.rows) < MIN_DRAWN for line in lines)
    outliers = sum(each.outlier_fraction for each in processes) / len(processes)
    yield Text(
        f"{section.short_title}: of {len(processes):,} processes, "
        f"{sum(each.is_drifting for each in processes)} drift and "
        f"{sum(each.is_bimodal for each in processes)} have "
        f"two modes; {outliers:.1%} of the samples lie beyond Tukey's fences. Of "
        f"{count(len(lines), 'line')}, "
        f"{sum(each.is_bimodal for each in found)} have fast and slow processes, and {few} have fewer than "
        f"{MIN_DRAWN} processes, whose intervals are too narrow (marked * where they stand)."
    )
    odd = [(line, told) for line, flag in zip(lines, found, strict=True) if (told := flags.describe(flag))]
    if odd:
        rows = tuple((line.name, told) for line, told in odd[:_FLAGGED])
        more = f" {len(odd) - _FLAGGED} more are not listed." if len(odd) > _FLAGGED else ""
        caption = f"Lines with a flag, on {section.short_title}.{more}"
        yield Table(("line", "what is odd"), rows, tuple(line.ids for line, _ in odd[:_FLAGGED]), caption)


def effort(rows: Sequence[Entry]) -> Chapter | None:
    """Where the sweep's time went; None where no row tells."""
    spent = total_seconds(rows)
    if not spent:
        return None
    total = sum(spent.values())
    bars = tuple(
        Bar(stage, Interval(seconds), f"{seconds:,.1f} s, {seconds / total:.0%}")
        for stage, seconds in spent.items()
    )
    chart = Bars("Seconds by stage", Axis("seconds"), (Group("", bars),))
    caption = f"{total / 60:,.0f} minutes in all; what several rows share is counted once."
    return Chapter("Where the time went", (Figure("effort", grid.draw(chart, width_px=640), caption),))


def provenance(rows: Sequence[Entry], sweep: str) -> Chapter:
    """What the rows were made with, and a digest of which they are."""
    measured = [row for row in rows if row.status == "measured"]
    devices = {(row.gpu or row.device_model, row.device) for row in rows if row.device}
    versions = {id(row.versions): row.versions for row in rows}  # rows share them
    table = [
        ("rows", f"{count(len(rows), 'row')} of sweep {sweep}; digest of their ids {digest_of(rows)}"),
        ("measured", f"{min(row.started_at for row in rows):%Y-%m-%d %H:%M} to {_last(rows)} UTC"),
        ("dlas", _values(row.commit or "commit unknown" for row in rows)),
        (
            "devices",
            _values(f"{name} ({device[:12]})" for name, device in devices),
        ),
        (
            "runners",
            _values(
                f"{row.runner}, {count(row.threads, 'thread')} on CPUs {row.cpu_set}" for row in measured
            ),
        ),
        (
            "images",
            _values(row.image_id[:19] + " (stand-in base)" * row.stand_in for row in rows if row.image_id),
        ),
        ("versions", _values(f"{name} {each[name]}" for each in versions.values() for name in each)),
        (
            "datasets",
            _values(f"{row.dataset} {row.dataset_sha256[:12]}" for row in rows if row.dataset_sha256),
        ),
        ("training", _values(_training(row) for row in measured)),
    ]
    shown = tuple((name, words) for name, words in table if words)
    return Chapter("Provenance", (Table(("what", "as it was"), shown),))


def digest_of(rows: Iterable[Entry]) -> str:
    """Of which rows these are, whatever their order."""
    return digest(*sorted(row.id for row in rows))[:16]


def rows_chapter(lines: Iterable[Line]) -> Chapter:
    """The rows that tables and figures link to, with the median of each process."""
    known = sorted(lines, key=lambda line: (line.first.target, line.first.device, line.first.cell))
    fields = tuple(
        (
            line.name,
            line.first.device[:8],
            line.runs,
            " ".join(f"{row.median_ns / 1e6:.4f}" for row in line.rows),
        )
        for line in known
    )
    headings = ("line", "device", "runs", "median of each process, ms")
    lead = Text(
        "Each link above leads here. The ids name rows of the results: column `id` of the Parquet files, in "
        "the order of the medians."
    )
    return Chapter("Rows", (lead, Table(headings, fields, tuple(line.ids for line in known), is_list=True)))


def _last(rows: Sequence[Entry]) -> str:
    return f"{max(row.started_at for row in rows):%Y-%m-%d %H:%M}"


def _training(row: Entry) -> str:
    if not row.trained:
        return "untrained"
    return (
        f"recipe {row.recipe}" + (f", then {row.finetuning}" if row.finetuning else "") if row.recipe else ""
    )


def _values(words: Iterable[str]) -> str:
    return ", ".join(sorted({word for word in words if word}))
