"""What comes from elsewhere: datasets and pre-trained weights, whether they are there, and fetching them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dlas.datasets import catalog
from dlas.errors import UsageError, did_you_mean
from dlas.models import weights


def status(folders: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Name and line of each dataset, and of each network with published weights: where, or how to get it."""
    return catalog.status(folders) + [(name, weights.status(name)) for name in weights.networks()]


def fetch(name: str, folders: Mapping[str, Path], say: Callable[[str], None]) -> None:
    """Get a dataset, or the published weights of a network. Raises UsageError, DataError or StorageError."""
    names = [*catalog.DATASETS, *weights.networks()]
    if name not in names:
        near = did_you_mean(name, names) or "give one of them"
        raise UsageError(f"cannot fetch {name!r}, only {', '.join(names)}", near)
    if name in catalog.DATASETS:
        from dlas.datasets.fetch import fetch as fetch_dataset

        fetch_dataset(name, folders[name], say)
    else:
        from dlas.models.imagenet import fetch as fetch_weights

        fetch_weights(name, say)
