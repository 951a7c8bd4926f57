"""What a sweep has stored, with all its columns."""

from __future__ import annotations

from pathlib import Path

from dlas.results import store
from dlas.values import Row


def stored_rows(artifacts: Path, sweep: str) -> tuple[Row, ...]:
    """The rows of a sweep, in the order of their files. Raises StorageError for one that is damaged."""
    paths, problems = store.files(artifacts, sweep)
    assert not problems
    return tuple(store.load(path) for path in paths)
