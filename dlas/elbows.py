"""The elbows of a sweep: what its pruned networks cost in accuracy, and which levels `@elbow` stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dlas.compression import notation
from dlas.compression.elbow import find_elbow
from dlas.datasets import catalog
from dlas.errors import DataError, DlasError
from dlas.network import Network
from dlas.results.curves import Curve, plot, to_table
from dlas.sweep import Planned
from dlas.tomlfile import shown


def curves(
    planned: Sequence[Planned], folders: Mapping[str, Path], checkpoints: Path
) -> tuple[list[Curve], list[str]]:
    """The levels that there are of every network and technique that these cells name; nothing is trained.

    folders: where each dataset lies, as from `datasets.catalog.folders`. Beside the curves, a line for
    each network and technique whose elbow is asked for and that has none, or not enough levels, and why:
    also where its files are damaged.
    """
    found, notes, wanted = {}, {}, set(map(_title, filter(_wants_elbow, planned)))
    sha256 = {name: _sha256(name, folders) for name in {each.cell.dataset for each in planned}}
    for each in planned:
        # What the elbow of its technique would be, whatever level the cell names.
        technique = notation.parse(each.cell.compression).technique
        if technique not in notation.TECHNIQUES:
            continue
        cell = replace(each.cell, compression=f"{technique}@elbow")
        network = Network(replace(each, cell=cell), sha256[cell.dataset], checkpoints)
        title = _title(each)
        if title in found or title in notes:
            continue
        try:
            curve = curve_of(network)
            if curve is not None:
                found[title] = curve
            if (reason := _lack(network)) and (curve is not None or title in wanted):
                notes[title] = reason
        except DlasError as error:
            notes[title] = str(error)
    return list(found.values()), [f"{title}: {reason}" for title, reason in notes.items()]


def curve_of(network: Network) -> Curve | None:
    """The levels of a network that asks for an elbow, None where there is none but the dense one.

    Raises what reading its recipe raises, and TrainingError for levels that cannot be compared.
    """
    cell, points = network.cell, network.levels
    if len(points) < 2:
        return None
    elbow = find_elbow(points, cell.max_drop_fraction)
    chosen = None if elbow == points[0] else elbow
    technique = network.asked.technique
    return Curve(cell.model.name, cell.dataset, technique, points, chosen, cell.max_drop_fraction)


def describe(curves: Sequence[Curve], notes: Sequence[str]) -> str:
    """The table of the curves, then the notes; empty without either. No newline at the end."""
    return "\n\n".join(filter(None, (to_table(curves), "\n".join(notes))))


def draw(sweep: str, planned: Sequence[Planned], folders: Mapping[str, Path], artifacts: Path) -> str:
    """`describe` the curves of a sweep, plot them to <artifacts>/reports/<sweep>/elbow.svg, and say where.

    Empty where no cell is pruned. Raises StorageError where the plot cannot be written.
    """
    return show(sweep, *curves(planned, folders, artifacts / "checkpoints"), artifacts)


def show(sweep: str, found: Sequence[Curve], notes: Sequence[str], artifacts: Path) -> str:
    """As `draw`, of curves that were found."""
    parts = [describe(found, notes)]
    if found:
        path = artifacts / "reports" / sweep / "elbow.svg"
        plot(found, path)
        parts.append(f"plotted to {shown(path)}")
    return "\n\n".join(filter(None, parts))


def _wants_elbow(planned: Planned) -> bool:
    return notation.parse(planned.cell.compression).level_fraction is None


def _title(planned: Planned) -> str:
    cell = planned.cell
    technique = notation.parse(cell.compression).technique
    return f"{cell.model.name} on {cell.dataset}, {technique} pruning"


def _lack(network: Network) -> str:
    """Why there are not all levels, empty where there are."""
    if network.is_unfinished:
        return "`invoke run` of this sweep trains and prunes it"
    if isinstance(network.compression, str) and not network.has_levels:
        return network.compression
    return ""


def _sha256(dataset: str, folders: Mapping[str, Path]) -> str:
    """Of the dataset on this machine, empty where there is none: as `weights.find` takes it."""
    try:
        return catalog.locate(dataset, folders).sha256
    except DataError:
        return ""
