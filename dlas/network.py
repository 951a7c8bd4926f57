"""What a cell runs: its network with the weights, and the level of pruning, that there are for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from dlas import keys
from dlas.compression import finetuning as finetunings
from dlas.compression import levels, notation
from dlas.compression.elbow import find_elbow
from dlas.compression.finetuning import Finetuning
from dlas.datasets.catalog import DATASETS
from dlas.errors import DlasError
from dlas.models import weights
from dlas.sweep import Planned
from dlas.values import Cell, Compression, LevelPoint, Weights


@dataclass(frozen=True)
class _Found:
    """What lies on disk for a network, and what is wrong with it if anything is: then nothing counts."""

    dense_weights: Weights
    levels: tuple[LevelPoint, ...] = ()
    fault: DlasError | None = None


@dataclass(frozen=True)
class Network:
    """The network of a cell, as far as it is trained and pruned; look again with a new one.

    data_sha256: of its dataset on this machine, empty where there is none. What is damaged on disk is a
    `fault` and raises nothing.
    """

    planned: Planned
    data_sha256: str
    checkpoints: Path

    @property
    def cell(self) -> Cell:
        return self.planned.cell

    @cached_property
    def asked(self) -> Compression:
        """The compression that the cell names."""
        return notation.parse(self.cell.compression)

    @cached_property
    def finetuning(self) -> Finetuning | None:
        """How the network is pruned; None for a dense one, and for one that is pruned and not trained on."""
        is_finetuned = self.asked.technique in notation.TECHNIQUES and self.cell.finetuning
        return finetunings.load(self.cell.finetuning) if is_finetuned else None

    @cached_property
    def _found(self) -> _Found:
        cell = self.cell
        try:
            dense = weights.find(cell.model, cell.dataset, cell.recipe, self.data_sha256, self.checkpoints)
            if self.finetuning is None or not dense.trained:
                return _Found(dense)
            asked = cell.model, cell.dataset, dense, self.finetuning, self.asked.technique
            return _Found(dense, levels.find(*asked, self.checkpoints, self.data_sha256))
        except DlasError as error:
            return _Found(Weights("untrained", reason=str(error)), fault=error)

    @property
    def dense_weights(self) -> Weights:
        """Of the network before it is pruned."""
        return self._found.dense_weights

    @property
    def levels(self) -> tuple[LevelPoint, ...]:
        """The levels that it has been pruned and trained to, from the dense one upwards."""
        return self._found.levels

    @property
    def fault(self) -> DlasError | None:
        """Why what lies on disk cannot be used."""
        return self._found.fault

    @property
    def known_levels(self) -> tuple[float, ...]:
        """The levels of its recipe, empty without one."""
        return finetunings.levels(self.finetuning, self.asked.technique) if self.finetuning else ()

    @property
    def must_train(self) -> bool:
        """Whether it is still to be trained."""
        trains = self.planned.trains and not self.planned.unbuildable and not self.cell.model.weights
        return trains and not self._cannot_be_pruned and not self.fault and not self.dense_weights.trained

    @property
    def must_finetune(self) -> bool:
        """Whether it is still to be pruned and trained on."""
        if not self.planned.trains or self.planned.unbuildable or self.finetuning is None:
            return False
        if self._cannot_be_pruned or self.fault:
            return False
        return self.must_train or (self.dense_weights.trained and not self.has_levels)

    @property
    def is_unfinished(self) -> bool:
        """Whether a sweep has anything to train before it runs this."""
        return self.must_train or self.must_finetune

    @property
    def has_levels(self) -> bool:
        """Whether the level that is asked for is there; for the elbow, whether all of the recipe's are."""
        if not self.known_levels:
            return False
        last = self.known_levels[-1] if self.asked.level_fraction is None else self.asked.level_fraction
        return any(point.level_fraction == last for point in self.levels)

    @property
    def _cannot_be_pruned(self) -> str:
        """Why its recipe can never prune it so far, empty where it can."""
        level, name = self.asked.level_fraction, self.finetuning.recipe.name if self.finetuning else ""
        if not name or level in (None, *self.known_levels):
            return ""
        known = ", ".join(f"{one:g}" for one in self.known_levels)
        return f"recipe {name} has no {self.asked.technique} level {level:g}, only {known}"

    @cached_property
    def compression(self) -> Compression | str:
        """What the cell's compression is, by the levels that are there; or why it is nothing yet."""
        if self.fault is not None:
            return str(self.fault)
        asked, model = self.asked, self.cell.model.name
        if asked.technique == "dense":
            return asked
        if self._cannot_be_pruned and (self.planned.trains or self.dense_weights.trained):
            return self._cannot_be_pruned
        if self.finetuning is None or not self.dense_weights.trained:
            if asked.level_fraction is not None:
                return asked
            example = notation.write(replace(asked, level_fraction=0.8))
            lack = "has no recipe to prune it by" if self.dense_weights.trained else "is untrained"
            return f"{model} {lack}, so there is no elbow: give the level by hand, as in {example}"
        if not self.has_levels:
            return self._not_pruned
        return _resolve(asked, self.levels, self.cell.max_drop_fraction)

    @property
    def _not_pruned(self) -> str:
        cell, name = self.cell, self.finetuning.recipe.name if self.finetuning else ""
        cause = f"recipe {name} has not pruned {cell.model.name} to {cell.compression}"
        if not DATASETS[cell.dataset].trains:
            return f"{cause}, and {cell.dataset} has no training images here: leave finetuning out"
        how = f"`invoke prune --sweep ... --model {cell.model.name} --dataset {cell.dataset}"
        return f"{cause}: {how} --technique {self.asked.technique}` does, or train = true in the sweep"

    @property
    def resolved(self) -> Compression:
        """The compression with its level. Raises ValueError where it is not known."""
        if isinstance(self.compression, str):
            raise ValueError(self.compression)
        return self.compression

    @property
    def is_resolved(self) -> bool:
        return isinstance(self.compression, Compression)

    @property
    def invalid_reason(self) -> str:
        """Why it cannot be run; empty where it can, after training or not, and where files are damaged."""
        return "" if self.is_unfinished or self.fault or self.is_resolved else str(self.compression)

    @property
    def weights(self) -> Weights:
        """What it is loaded with: those of its level, or the dense ones where it is not trained on.

        All levels were trained to find the elbow, so their seconds are its.
        """
        if not isinstance(self.compression, Compression):
            return self.dense_weights
        for point in self.levels[1:]:
            if point.level_fraction == self.compression.level_fraction:
                spent = self.levels[-1] if self.asked.level_fraction is None else point
                return replace(point.weights, finetune_seconds=spent.weights.finetune_seconds)
        return self.dense_weights

    @cached_property
    def key(self) -> str:
        """Of the network in PyTorch. Raises ValueError as `resolved`."""
        return keys.network_key(self.cell.model, self.weights, self.resolved)


def _resolve(
    asked: Compression, points: tuple[LevelPoint, ...], max_drop_fraction: float
) -> Compression | str:
    """The elbow replaced by its level, or the reason why there is none; any other compression as it is."""
    if asked.level_fraction is not None:
        return asked
    elbow = find_elbow(points, max_drop_fraction)
    if elbow == points[0]:
        drop = f"{100 * max_drop_fraction:.4g}%"
        return f"no level of {asked.technique} pruning stays within {drop} of the dense network"
    return replace(asked, level_fraction=elbow.level_fraction)
