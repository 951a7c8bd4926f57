"""What a person asks of stored rows: the report's pages, comparisons, observations, advice, noise."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from dlas import cache, elbows, pipeline
from dlas import sweep as sweeps
from dlas.errors import DlasError, StorageError, UsageError, did_you_mean
from dlas.hardware import targets
from dlas.progress import Progress
from dlas.results import advice, collection, compare, entries, floors, noise, observations, report, store
from dlas.results.curves import Curve
from dlas.results.entries import Entry
from dlas.results.lines import lines_of
from dlas.results.pages import build, page
from dlas.results.pages.build import Material
from dlas.results.places import Section, sections_of
from dlas.results.store import Stored
from dlas.searches import search_curves
from dlas.sweep import Planned
from dlas.tomlfile import shown
from dlas.trial import Settings

FOLDER = "reports"
ACTIONS = ("merge", "compact", "verify", "export")


@dataclass(frozen=True)
class Chosen:
    """Rows of a sweep that are true today, of cells like a glob. hidden: how many are not true today."""

    sweep: str
    rows: list[Entry]
    sections: list[Section]
    hidden: int
    problems: tuple[StorageError, ...]
    planned: list[Planned]
    curves: list[Curve]
    notes: list[str]


def tell(sweep: str, root: Path, folders: Mapping[str, Path], only: str = "*") -> str:
    """The rows of a sweep as text, as wide as the terminal, then the elbows of its pruned networks.

    sweep: a name, or a file; the elbows need the file, so rows of a sweep whose file is gone come alone.
    only: a glob of cell ids. Raises UsageError for a sweep without rows, or none like it, StorageError.
    """
    return _tell(_choose(sweep, root, folders, only), root)


def write_report(
    sweep: str, root: Path, folders: Mapping[str, Path], only: str = "*", drop_fraction: float = 0.01
) -> str:
    """As `tell`, and write it as pages; the text ends with where these lie.

    drop_fraction: how much accuracy the best configurations may lose.
    """
    with _no_collector():
        return _write_report(_choose(sweep, root, folders, only), root, folders, drop_fraction)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Rows make no cycles: with 100,000 of them, looking for some takes a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _write_report(chosen: Chosen, root: Path, folders: Mapping[str, Path], drop_fraction: float) -> str:
    if not chosen.rows:
        raise chosen.problems[0]
    text = _tell(chosen, root)
    material = Material(
        chosen.sweep,
        chosen.rows,
        chosen.sections,
        floors.read(root),
        chosen.hidden,
        chosen.problems,
        chosen.curves,
        chosen.notes,
        search_curves(chosen.planned, chosen.rows, root, folders),
    )
    pages = write_pages(build.build(material, drop_fraction), root / FOLDER / chosen.sweep)
    return f"{text}\n\nwritten to {pages}"


def _choose(sweep: str, root: Path, folders: Mapping[str, Path], only: str) -> Chosen:
    """The cells of a sweep whose file cannot be read are none: its rows are there all the same."""
    name = Path(sweep).stem
    stored = stored_rows(root, name)
    counting = entries.latest(stored.rows)
    planned: list[Planned] = []
    lack = []
    try:
        planned = [each for each in sweeps.expand(sweeps.load(sweep)) if fnmatchcase(each.cell.id, only)]
    except DlasError as error:
        lack = [f"no elbows: {error}"]
    hidden = len(stored.rows) - len(counting)
    rows = _like(counting, only)
    curves, notes = elbows.curves(planned, folders, root / "checkpoints")
    return Chosen(name, rows, sections_of(rows), hidden, stored.problems, planned, curves, [*notes, *lack])


def _tell(chosen: Chosen, root: Path) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    text = report.describe(chosen.sections, chosen.problems, chosen.hidden, width)
    return "\n\n".join(filter(None, (text, elbows.show(chosen.sweep, chosen.curves, chosen.notes, root))))


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
