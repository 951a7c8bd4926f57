"""The rules of the house that no single module can keep: who imports whom, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dlas import keys

ROOT = Path(__file__).parents[1]
LEAVES = {"values", "errors"}
EVERYTHING = {""}

# Room of dlas: what it may import from dlas, beside itself. A dotted name allows that module alone.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "values": {"errors"},
    "cache": {"errors"},
    "tomlfile": {"errors"},
    "worker": LEAVES,
    "progress": LEAVES,
    "datasets": LEAVES | {"cache", "tomlfile", "models.vision"},
    "models": LEAVES | {"cache", "tomlfile", "datasets"},
    "compression": LEAVES | {"cache", "tomlfile", "models"},
    "algorithms": LEAVES,
    "systems": LEAVES | {"cache", "algorithms"},
    "hardware": LEAVES | {"cache", "tomlfile"},
    "measurement": LEAVES | {"hardware.cpu"},
    "results": LEAVES | {"cache"},
    "sweeptables": LEAVES | {"tomlfile", "compression.finetuning", "datasets.catalog", "models.recipe"},
    "sweepfile": LEAVES
    | {"tomlfile", "sweeptables", "compression.notation", "datasets.catalog", "hardware.targets"},
    "sweep": LEAVES | {"hardware.targets", "sweepfile", "sweeptables"},
    "handout": LEAVES
    | {"cache", "datasets.splits", "hardware", "measurement.measure", "results", "sweepfile"}
    | {"systems.artifact"},
    "keys": LEAVES | {"cache", "models.sources"},
    "elbows": LEAVES
    | {"compression.elbow", "compression.notation", "datasets.catalog", "network", "results.curves"}
    | {"sweep", "tomlfile"},
    "network": LEAVES
    | {"compression.elbow", "compression.finetuning", "compression.levels", "compression.notation"}
    | {"datasets.catalog", "keys", "models.weights", "sweep"},
    "bench": EVERYTHING,
    "pipeline": EVERYTHING,
    "publishing": EVERYTHING,
    "searches": LEAVES | {"results", "sweep", "systems.autoschedule", "trial", "tuned"},
    "stages": EVERYTHING,
    "training": EVERYTHING,
    "tuning": EVERYTHING,
    "tuners": LEAVES
    | {"cache", "candidates", "measurement.patience", "plan", "progress", "sweeptables", "trial", "worker"}
    | {"systems.autoschedule"},
    "candidates": LEAVES
    | {"hardware.device", "measurement.measure", "systems.autoschedule", "trial", "worker"},
    "tuned": LEAVES | {"cache", "sweeptables", "systems.autoschedule"},
    "supplies": EVERYTHING,
    "trial": LEAVES
    | {
        "cache",
        "keys",
        "datasets.catalog",
        "hardware",
        "measurement.patience",
        "network",
        "results",
        "sweep",
        "tuned",
    },
    "prebuilt": LEAVES | {"hardware"},
    "doctor": LEAVES | {"hardware", "measurement.environment"},
    "plan": LEAVES | {"compression.finetuning", "models.recipe", "progress", "results", "sweep", "trial"},
    "tasks": LEAVES
    | {"cache", "datasets.catalog", "doctor", "elbows", "handout", "hardware", "pipeline", "plan"}
    | {"prebuilt", "progress", "publishing", "supplies", "sweep", "sweeptables", "training", "trial"}
    | {"tuning"},
}
# What changes networks of PyTorch; levels, elbows and what a name asks for are known without it.
PRUNING = {
    f"compression.{name}"
    for name in ("channel", "channel_graph", "channel_operators", "compressed", "finetune", "prune")
} | {"compression.prune_callbacks"}
# Heavy package: the rooms, or single modules, that own it.
OWNERS: dict[str, set[str]] = {
    "torch": {"datasets", "models", "systems.frontend", "bench", *PRUNING, "compression.export"},
    "torchvision": {"datasets", "models"},
    "sklearn": {"datasets"},
    "pytorch_lightning": {"models.learner", "models.trainer", "models.train", "compression.prune_callbacks"},
    "scipy": {"results"},
    "zstandard": {"hardware.packing"},
    "tvm": {"algorithms", "systems"},
    "tvm_ffi": {"algorithms", "systems"},
    "pyarrow": {"results", "bench.results"},
    "onnx": {"compression.export", "compression.quantize", "systems.quantized"},
    "onnxruntime": {"bench", "compression.quantize"},
    "openvino": {"bench"},
}
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
FORBIDDEN = {
    "the host of a package index": r"pypi[.]org|pythonhosted[.]|pytorch[.]org/whl|npmjs[.]org|anaconda[.]org",
    "a path of one machine": r"(?<![\w.])/(?:home|root|work|Users)/\w",
}


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, relative ones resolved; `from a import b` gives a.b.

    >>> list(imports("import os.path\\nfrom .x import y\\nfrom .. import z", "dlas.results.store"))
    [(1, 'os.path'), (2, 'dlas.results.x.y'), (3, 'dlas.z')]
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def is_under(name: str, owners: set[str]) -> bool:
    """Whether a dotted name is one of these or inside one; all is inside the empty name.

    >>> is_under("hardware.targets.load", {"hardware.targets"}), is_under("hardware.lock", {"hardware.t"})
    (True, False)
    """
    return any(not owner or name == owner or name.startswith(f"{owner}.") for owner in owners)


def broken_arrows(source: str, module: str, where: str, is_package: bool = False) -> list[str]:
    """One line for each import in this module that the tables do not allow."""
    inside = module.removeprefix("dlas.")
    room = inside.split(".")[0]
    if room not in ARROWS:
        return [f"{where}: {room} is no room of the house; give it a line in ARROWS"]
    found = []
    for line, name in imports(source, module, is_package):
        top, _, rest = name.partition(".")
        if top == "dlas" and not is_under(rest, ARROWS[room] | {room}):
            found.append(f"{where}:{line}: {room} may not import {name}")
        if top in OWNERS and not is_under(inside, OWNERS[top]):
            found.append(f"{where}:{line}: {top} belongs to {', '.join(sorted(OWNERS[top]))}")
    return found


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "dlas").rglob("*.py")), ROOT / "tasks.py"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_imports_follow_the_arrows(path: Path) -> None:
    where = path.relative_to(ROOT)
    is_package = path.name == "__init__.py"
    parts = where.parent.parts if is_package else where.with_suffix("").parts
    if parts == ("dlas",):
        assert path.read_text() == ""
        return
    found = broken_arrows(path.read_text(), ".".join(parts), str(where), is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "module", "message"),
    [
        ("from dlas.hardware import lock", "dlas.sweep", "x.py:1: sweep may not import dlas.hardware.lock"),
        (
            "from ..systems import build",
            "dlas.hardware.device",
            "x.py:1: hardware may not import dlas.systems.build",
        ),
        (
            "def f():\n    import tvm.te",
            "dlas.measurement.measure",
            "x.py:2: tvm belongs to algorithms, systems",
        ),
        ("import zstandard", "dlas.systems.build", "x.py:1: zstandard belongs to hardware.packing"),
        ("", "dlas.cellar.wine", "x.py: cellar is no room of the house; give it a line in ARROWS"),
    ],
)
def test_a_broken_arrow_is_named(source: str, module: str, message: str) -> None:
    assert broken_arrows(source, module, "x.py") == [message]


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "invoke", "--search-root", str(ROOT), "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert " run " in listed.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in listed.stderr.splitlines()}
    assert "invoke" in imported
    assert imported.isdisjoint(OWNERS)


def compression_modules(start: str) -> set[str]:
    """The modules of dlas.compression that one of them rests on, itself among them."""
    found, left = set(), [start]
    while left:
        name = left.pop()
        path = ROOT / "dlas" / "compression" / f"{name}.py"
        if name not in found and path.is_file():
            found.add(name)
            parts = [imported.split(".") for _, imported in imports(path.read_text(), "dlas.compression.x")]
            left += [part[2] for part in parts if part[:2] == ["dlas", "compression"]]
    return found


@pytest.mark.parametrize(("start", "files"), [("compressed", keys._PRUNES), ("quantize", keys._QUANTIZES)])
def test_a_key_rests_on_all_that_changes_a_network(start: str, files: tuple[Path, ...]) -> None:
    only_read = {"finetuning", "levels", "notation"}
    assert {path.stem for path in files} == compression_modules(start) - only_read


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(lines, 1)
            if re.search(FORBIDDEN[what], line)
        ]
    assert not found, "\n".join(found)


def test_every_requirement_is_pinned() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            assert re.fullmatch(r"(?:[\w-]+==[\w.]+(?:; \w+ == \"\w+\")?)?(?:  )?(?:# .*)?", line), (
                f"{path.name}: {line}"
            )


@pytest.mark.parametrize(
    "name",
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/sample/README.md", *DOCS],
)
def test_links_in_the_docs_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text())
    missing = [
        target for target in targets if "://" not in target and not ((ROOT / name).parent / target).exists()
    ]
    assert not missing
