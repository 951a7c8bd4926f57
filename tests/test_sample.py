"""The sample in docs/: its rows are whole, and its pages are what the report makes of them today."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dlas import publishing
from dlas.results import collection, store

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
    rows = store.read(SAMPLE, SWEEP).rows
    assert {row.runner for row in rows if row.is_timed} <= {"local", "docker"}
    assert not [row for row in rows if row.commit == "" or row.commit.endswith("-dirty")]


def test_pages_are_made_from_the_sample(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shutil.copytree(SAMPLE / store.FOLDER, tmp_path / store.FOLDER)
    publishing.write_report(SWEEP, "*", 0.01, tmp_path, {})
    made = {path.name: path.read_text() for path in (tmp_path / PAGES).iterdir()}
    if request.config.getoption("--update-golden"):
        shutil.rmtree(SAMPLE / PAGES, ignore_errors=True)
        shutil.copytree(tmp_path / PAGES, SAMPLE / PAGES)
    kept = {path.name: path.read_text() for path in (SAMPLE / PAGES).iterdir()}
    assert sorted(made) == sorted(kept)
    assert [name for name in made if made[name] != kept[name]] == []
