"""One measured cell for somebody else: a folder with its library, TVM's run time, and loaders."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from dlas.cache import atomic_folder
from dlas.errors import UsageError
from dlas.handout import measured as rows
from dlas.handout import modules, page
from dlas.hardware import runner, wheels
from dlas.hardware.engine import Log
from dlas.values import Board, Compiler, Target

_ARRAYS = {"input.npy": "input.npy", "oracle.npy": "expected.npy"}
_LICENCES = ("LICENSE", "NOTICE")


def export(cell: str, to: Path, artifacts: Path, sweep: str = "", say: Log = lambda line: None) -> str:
    """Write the artifact of a measured cell into the folder `to`, whole or not at all; returns what to print.

    sweep: of whose rows, a name or a file; of all where it is empty. TVM's run time for the target is what
    the runner has, which is built if it is not there. Raises UsageError for a cell without a row that counts
    and for a folder that is not free, StorageError where the artifact is gone, BuildError.
    """
    to = _free(to)
    measured = rows.find(artifacts, cell, sweep)
    again = (
        f"{rows.command('build', cell, measured.sweep)} makes it again; where dlas or TVM has changed since, "
        "`invoke run` with the same measures a new one"
    )
    artifact, compiler = modules.find(artifacts, measured.artifact_sha256, again)
    libraries = _libraries(compiler, measured.target, artifacts, say)
    values = page.values(measured, artifact, compiler, libraries)
    with atomic_folder(to) as made:
        shutil.copyfile(artifact.module, made / artifact.module.name)
        for source, name in _ARRAYS.items():
            shutil.copyfile(artifact.path / source, made / name)
        _write_pages(made, values)
        _write_run_time(made, libraries)
        size_bytes = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    return (
        f"{to}: {size_bytes / 1e6:.1f} MB, with loaders in Python and C++; its README.md explains them\n"
        f"{cell} on {measured.device}: {page.describe_time(measured)}"
    )


def _free(to: Path) -> Path:
    """The folder, behind links. Raises UsageError where something is there that would be lost."""
    to = to.resolve()
    if to == Path.cwd():
        raise UsageError(f"{to} is the folder you are in", "name another, which is not there yet")
    if to.is_dir() and not any(to.iterdir()):
        return to
    if to.exists():
        what = "is not empty" if to.is_dir() else "is a file"
        raise UsageError(f"{to} {what}", "name a folder that is not there yet")
    return to


def _libraries(compiler: Compiler, name: str, artifacts: Path, say: Log) -> list[Path]:
    """TVM's run time for a target, and the back end of its GPU. Raises what building the runner raises."""
    # What the runner is made of follows from the compiler alone; the file of a user's target may be gone.
    target = Target(name, (), "", "", compiler, Board(runners=(), threads=1), image=None)
    folder = runner.build_runner(target, artifacts, say).folder
    return sorted(folder.glob("lib*.so"))


def _write_pages(folder: Path, values: dict[str, str]) -> None:
    for path in sorted(page.TEMPLATES.iterdir()):
        text = path.read_text()
        filled = page.fill(text, values) if path.suffix == page.SUFFIX else text
        (folder / path.name.removesuffix(page.SUFFIX)).write_text(filled)


def _write_run_time(folder: Path, libraries: list[Path]) -> None:
    """lib/ and include/, with the licences under which TVM's are given away."""
    (folder / "lib").mkdir()
    for library in libraries:
        shutil.copyfile(library, folder / "lib" / library.name)
    shutil.copytree(wheels.include(), folder / "include", ignore=shutil.ignore_patterns("*python*"))
    for name in (installed.partition("==")[0] for installed in wheels.versions()):
        for file in importlib.metadata.files(name) or ():
            if file.name in _LICENCES:
                shutil.copyfile(file.locate(), folder / "lib" / f"{name}.{file.name}")
