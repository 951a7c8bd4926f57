"""Rows that are made to be compared: processes of a cell around a median, with the images it gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dlas.results.entries import Entry

MakeEntry = Callable[..., Entry]
IMAGES = 360


def replicates(
    make: Callable[..., Any],
    cell: str,
    median_us: float,
    wrong: Iterable[int] | None = (),
    processes: int = 5,
    **changes: Any,
) -> list[Any]:
    """So many rows of a cell, 1% apart, from `make_row` or `make_entry`.

    wrong: the images that it gets wrong; None for no accuracy at all.
    """
    rng = np.random.default_rng([int(median_us * 1000), len(cell)])
    known: dict[str, Any] = {"trained": True, "recipe": "digits", "dataset_sha256": "dd" * 32}
    if wrong is not None:
        missed = sorted(wrong)
        share = 1 - len(missed) / IMAGES
        known |= {"misclassified": missed, "top1_fraction": share, "top1_n": IMAGES}
    rows = []
    for number in range(processes):
        noise = 0.01 * rng.standard_normal() + 0.01 * rng.standard_normal(150)
        samples = (1000 * median_us * np.exp(noise)).astype(int).tolist()
        rows.append(make(cell=cell, replicate=number, minutes=number, samples=samples, **(known | changes)))
    return rows
