"""The sample in docs/: its rows are whole, and its pages are what the report makes of them today."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dlas import publishing
from dlas.results import collection, floors, store, verdict
from dlas.results.lines import lines_of

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "docs" / "sample"
SWEEP = "digits"
PAGES = Path(publishing.FOLDER, SWEEP)
MAX_BYTES = 2_000_000


def test_sample_is_small_and_whole() -> None:
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    told = list(collection.verify(SAMPLE, store.sweeps(SAMPLE)))
    assert [line for line in told if not line.endswith(", 0 faults")] == []
    rows = [row for row in store.read(SAMPLE, SWEEP).rows if row.is_timed]
    assert len(rows) > 500
    assert all(row.publishable for row in rows)
    assert not [row for row in rows if row.commit == "" or row.commit.endswith("-dirty")]


def test_pages_are_made_from_the_sample(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shutil.copytree(SAMPLE / store.FOLDER, tmp_path / store.FOLDER)
    publishing.write_report(SWEEP, tmp_path, {})
    made = {path.name: path.read_text() for path in (tmp_path / PAGES).iterdir()}
    if request.config.getoption("--update-golden"):
        shutil.rmtree(SAMPLE / PAGES, ignore_errors=True)
        shutil.copytree(tmp_path / PAGES, SAMPLE / PAGES)
    kept = {path.name: path.read_text() for path in (SAMPLE / PAGES).iterdir()}
    assert sorted(made) == sorted(kept)
    assert [name for name in made if made[name] != kept[name]] == []


def test_few_verdicts_on_recorded_processes_of_one_artifact_are_false() -> None:
    """Random groups of five against five others of the same artifact: what differs between them is chance.

    Each of 12 artifacts has 20 processes, so groups overlap and verdicts follow each other: these are worth
    some 24 independent ones.
    """
    lines = [line for line in lines_of(store.read(SAMPLE, floors.SWEEP).rows) if len(line.rows) >= 10]
    assert len(lines) >= 10
    rng, words = np.random.default_rng(0), []
    for line in lines:
        for _ in range(20):
            order = rng.permutation(len(line.rows))
            groups = [[line.rows[i].samples_ns for i in order[start : start + 5]] for start in (0, 5)]
            words.append(verdict.judge(*groups).word)
    assert sum(word != verdict.UNDECIDED for word in words) <= 0.05 * len(words)


def test_no_verdict_on_recorded_processes_escapes_the_floor() -> None:
    """The first half against the last: between them, the machine may have changed."""
    found = floors.read(SAMPLE)
    for line in lines_of(store.read(SAMPLE, floors.SWEEP).rows):
        half = len(line.rows) // 2
        told = verdict.judge(line.processes[:half], line.processes[half:], found.of(line.first))
        assert told.word == verdict.UNDECIDED, line.name
