"""What a person asks of stored rows: the report's pages, comparisons, observations, advice, noise."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from dlas import cache, elbows, pipeline
from dlas import sweep as sweeps
from dlas.errors import DlasError, UsageError, did_you_mean
from dlas.hardware import targets
from dlas.progress import Progress
from dlas.results import advice, collection, compare, entries, floors, noise, observations, report, store
from dlas.results.entries import Entry
from dlas.results.lines import lines_of
from dlas.results.pages import build, page
from dlas.results.pages.build import Material
from dlas.results.store import Stored
from dlas.searches import search_curves
from dlas.sweep import Planned
from dlas.tomlfile import shown
from dlas.trial import Settings

FOLDER = "reports"
ACTIONS = ("merge", "compact", "verify", "export")


def tell(sweep: str, root: Path, folders: Mapping[str, Path], only: str = "*") -> str:
    """The rows of a sweep as text, as wide as the terminal, then the elbows of its pruned networks.

    sweep: a name, or a file; the elbows need the file, so rows of a sweep whose file is gone come alone.
    only: a glob of cell ids. Raises UsageError for a sweep without rows, StorageError.
    """
    name = Path(sweep).stem
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    stored = stored_rows(root, name)
    chosen = replace(stored, rows=tuple(row for row in stored.rows if fnmatchcase(row.cell, only)))
    planned, note = _planned(sweep, only)
    drawn = elbows.draw(name, planned, folders, root)
    return "\n\n".join(filter(None, (report.describe(chosen, width), drawn, note)))


def write_report(
    sweep: str, root: Path, folders: Mapping[str, Path], only: str = "*", drop_fraction: float = 0.01
) -> str:
    """Write what a sweep's rows say as pages, and return where they lie.

    sweep, only: as in `tell`. drop_fraction: how much accuracy the best configurations may lose. Raises
    UsageError where no row counts, StorageError.
    """
    name = Path(sweep).stem
    stored = stored_rows(root, name)
    counting = entries.latest(stored.rows)
    rows = _like(counting, only)
    if not rows:
        raise stored.problems[0]
    planned, note = _planned(sweep, only)
    curves, notes = elbows.curves(planned, folders, root / "checkpoints")
    material = Material(
        name,
        rows,
        floors.read(root),
        hidden=len(stored.rows) - len(counting),
        problems=stored.problems,
        curves=curves,
        notes=[*notes, *filter(None, [note])],
        searches=search_curves(planned, rows, root, folders),
    )
    return write_pages(build.build(material, drop_fraction), root / FOLDER / name)


def _planned(sweep: str, only: str) -> tuple[list[Planned], str]:
    """Cells of a sweep, none and why where its file cannot be read: its rows are there all the same."""
    try:
        return [each for each in sweeps.expand(sweeps.load(sweep)) if fnmatchcase(each.cell.id, only)], ""
    except DlasError as error:
        return [], f"no elbows: {error}"


def write_pages(made: page.Page, folder: Path) -> str:
    """Write report.html, which needs no other file, and report.md with its figures; returns their names."""
    for figure in page.figures(made):
        cache.atomic_write(folder / f"{figure.name}.svg", figure.svg.encode())
    html, markdown = folder / "report.html", folder / "report.md"
    cache.atomic_write(html, page.to_html(made).encode())
    cache.atomic_write(markdown, page.to_markdown(made).encode())
    return f"{shown(html)} and {shown(markdown)}"


def compare_sides(a: str, b: str, sweep: str, root: Path) -> str:
    """Two sides as in `digits,algorithm=direct`, pair by pair. Raises UsageError, StorageError."""
    sides = compare.parse(a, sweep), compare.parse(b, sweep)
    return compare.describe(compare.compare(root, *sides, floors.read(root)))


def observe(sweep: str, only: str, root: Path) -> str:
    """What the paper observed, asked of the rows of a sweep. Raises UsageError, StorageError."""
    found = observations.observe(_counting(root, sweep, only), floors.read(root))
    return observations.describe(found)


def advise(sweep: str, target: str, model: str, drop_fraction: float, root: Path) -> str:
    """One configuration for a target. Raises UsageError, StorageError, TargetError for an unknown target."""
    rows = _counting(root, sweep)
    return advice.advise(rows, targets.load(target).name, model, drop_fraction, floors.read(root))


def measure_noise(planned: Sequence[Planned], settings: Settings, progress: Progress) -> str:
    """Measure the same artifact against itself, process after process, and say how much it differs.

    The rows are those of the sweep `floors.SWEEP`, in which verdicts look for the floor of their device.
    Raises UsageError for too few processes, and what running cells raises.
    """
    least = noise.MIN_PROCESSES
    if settings.replicates < least:
        raise UsageError(f"{settings.replicates} processes tell no floor", f"give {least} or more")
    asked = replace(settings, sweep=floors.SWEEP, force=True, images=0)
    rows = pipeline.run_sweep(planned, asked, progress)
    pipeline.check(rows, settings.root)
    began = min(row.started_at for row in rows)
    fresh = [row for row in store.read(settings.root, floors.SWEEP).rows if row.started_at >= began]
    return "\n".join(floors.describe(line, noise.floor(line.processes)) for line in lines_of(fresh))


def act(action: str, sweep: str, sources: str, csv: str, root: Path) -> Iterator[str]:
    """Merge, compact, verify or export results, a line for each step. Raises UsageError, StorageError."""
    if action not in ACTIONS:
        raise UsageError(
            f"unknown action {action!r}", did_you_mean(action, ACTIONS) or f"one of {', '.join(ACTIONS)}"
        )
    if action == "merge":
        if not sources:
            raise UsageError("merge needs other results", "name their folders as in --from one,two")
        for source in sources.split(","):
            yield from collection.merge(root, Path(source).expanduser())
        return
    chosen = collection.choose(root, Path(sweep).stem)
    if action == "compact":
        for name in chosen:
            yield collection.compact(root, name)
    elif action == "verify":
        yield from collection.verify(root, chosen)
    elif not csv:
        raise UsageError("export needs a file", "name it as in --csv rows.csv")
    else:
        yield collection.export_csv(root, chosen, Path(csv).expanduser())


def stored_rows(root: Path, sweep: str) -> Stored:
    """Raises UsageError for a sweep without rows."""
    stored = store.read(root, sweep)
    if not stored.rows and not stored.problems:
        known = ", ".join(store.sweeps(root))
        next_step = f"`invoke run --sweep {sweep}` makes them" + (
            f"; those with results: {known}" if known else ""
        )
        raise UsageError(f"sweep {sweep!r} has no results", next_step)
    return stored


def _counting(root: Path, sweep: str, only: str = "*") -> list[Entry]:
    """The rows of a sweep that are true today. Raises what is wrong with a file: an answer rests on all."""
    stored = stored_rows(root, Path(sweep).stem)
    if stored.problems:
        raise stored.problems[0]
    return _like(entries.latest(stored.rows), only)


def _like(rows: Sequence[Entry], only: str) -> list[Entry]:
    """Rows of cells like this glob. Raises UsageError where there are some, and none like it."""
    found = [row for row in rows if fnmatchcase(row.cell, only)]
    if rows and not found:
        raise UsageError(f"no row is of a cell like {only!r}", f"as {rows[0].cell}")
    return found
