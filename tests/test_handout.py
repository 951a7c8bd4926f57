"""What is handed out of a measured cell: loaders that run as its page says; what cannot be is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from dlas import cache, pipeline, sweep
from dlas.errors import StorageError, UsageError
from dlas.handout import export as exports
from dlas.handout import measured, page
from dlas.handout.export import export
from dlas.hardware import targets
from dlas.progress import Progress
from dlas.results import store
from dlas.trial import Settings
from dlas.values import Row
from tests.integration.needs import lacks_opencl
from tests.test_pipeline import InProcess, write_sweep

ROOT = Path(__file__).parents[1]
CELL = "cifar10/my_tiny/dense/fp32/dense/direct/scheduled/x86_avx"
ON_POCL = CELL.replace("x86_avx", "opencl_pocl")
SAID = re.compile(r"class (\d+), error (\S+) of the output's scale\n")
ALLOWED = 1e-4


@dataclass(frozen=True)
class Shop:
    """An artifacts root with rows of one network on one or two targets, and a handout of each."""

    root: Path
    rows: dict[str, Row]  # by cell
    folders: dict[str, Path]
    said: str  # when CELL was handed out


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Shop:
    base = tmp_path_factory.mktemp("handout")
    root = base / "artifacts"
    root.mkdir()
    (artifacts / "runner").mkdir(exist_ok=True)
    (root / "runner").symlink_to(artifacts / "runner")
    names = ["x86", *([] if lacks_opencl() else ["pocl"])]
    planned = sweep.expand(sweep.load(str(write_sweep(base, "tiny"))), [targets.load(name) for name in names])
    settings = Settings("trial", root, runner="local", repeats=4, threads=1, replicates=2)
    with Progress() as progress, pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "Worker", InProcess)
        rows = {row.cell: row for row in pipeline.run_sweep(planned, settings, progress)}
    folders = {cell: base / f"to {row.target}" for cell, row in rows.items()}
    said = {cell: export(cell, folder, root) for cell, folder in folders.items()}
    return Shop(root, rows, folders, said[CELL])


def read_blocks(folder: Path) -> list[str]:
    """What the page of a handout says to type: for Python, and for C++."""
    return re.findall(r"^```\n(.*?)^```\n", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def run_python(folder: Path) -> subprocess.CompletedProcess[str]:
    (line,) = [line for line in read_blocks(folder)[0].splitlines() if not line.startswith("pip ")]
    name, *arguments = line.split()
    assert name == "python"
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DLAS_BACK_ENDS")}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=own, capture_output=True, text=True)


def build(folder: Path) -> None:
    line = read_blocks(folder)[1].splitlines()[0]
    built = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")


def run_program(folder: Path) -> subprocess.CompletedProcess[str]:
    (line,) = read_blocks(folder)[1].splitlines()[1:]
    bare = {"PATH": os.environ["PATH"]}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=bare, capture_output=True, text=True)


def check_right(ended: subprocess.CompletedProcess[str], folder: Path) -> None:
    said = SAID.fullmatch(ended.stdout)
    assert said, ended
    assert int(said[1]) == np.load(folder / "expected.npy").argmax()
    assert 0 <= float(said[2]) <= ALLOWED
    assert ended.returncode == 0


@pytest.mark.parametrize("cell", [CELL, pytest.param(ON_POCL, marks=pytest.mark.opencl)])
def test_both_loaders_are_right_in_another_place_and_wrong_is_told(
    cell: str, shop: Shop, tmp_path: Path
) -> None:
    folder, bad = (
        Path(shutil.copytree(shop.folders[cell], tmp_path / name)) for name in ("a device", "another")
    )
    expected = np.load(folder / "expected.npy")
    np.save(bad / "expected.npy", np.where(expected == expected.max(), expected, np.float32("nan")))
    with ThreadPoolExecutor() as pool:
        right, *wrong = (pool.submit(run_python, each) for each in (folder, bad)[: 2 if cell == CELL else 1])
        build(folder)
    check_right(right.result(), folder)
    check_right(run_program(folder), folder)

    shutil.copy(folder / "load", bad)
    for ended in (run_program(bad), *(each.result() for each in wrong)):
        assert (ended.returncode, ended.stderr) == (1, "")
    np.save(folder / "expected.npy", expected * np.float32(1 + 2 * ALLOWED))
    assert run_program(folder).returncode == 1


def test_the_loaders_are_short_and_need_nothing_of_dlas(shop: Shop) -> None:
    python, cxx = ((shop.folders[CELL] / f"load.{suffix}").read_text() for suffix in ("py", "cc"))
    imported = set(re.findall(r"^(?:import|from) (\w+)", python, re.MULTILINE))
    assert imported == {"os", "sys", "numpy", "tvm"}
    assert set(re.findall(r"^#include [<\"](?!c?std|vector)(\w+)", cxx, re.MULTILINE)) == {"tvm", "check"}
    assert len(code_lines(python)) <= 11
    assert len([line for line in code_lines(cxx) if line not in ("}", "int main() {")]) <= 18


def code_lines(source: str) -> list[str]:
    """Those that are not empty, a comment, or only there to include."""
    skipped = ("import ", "#", "//", '"""', "using ")
    return [line for line in source.splitlines() if line.strip() and not line.startswith(skipped)]


def test_the_page_tells_what_it_is_and_what_it_needs(shop: Shop) -> None:
    row, text = shop.rows[CELL], (shop.folders[CELL] / "README.md").read_text()
    assert text.startswith(f"# {CELL}\n")
    ids = [each.id for each in store.read(shop.root, "trial").rows if each.cell == CELL]
    newest = row.started_at.isoformat(timespec="seconds")
    assert f"| its rows | {' '.join(ids)} of sweep `trial`, the newest begun at {newest} |" in text
    assert f"| ran on | {row.device_model}, 1 thread |" in text
    medians = [
        np.median(each.samples_ns) for each in store.read(shop.root, "trial").rows if each.cell == CELL
    ]
    time = f"{np.median(medians) / 1e6:.3f} ms, the median of 2 processes with 8 samples; a quick look"
    assert time in text
    assert time in shop.said
    assert "| weights | untrained |" in text
    assert "| accuracy | not taken |" in text
    assert f"sha256 `{row.artifact_sha256}`" in text
    assert "float32 of shape (1, 3, 8, 8)" in text
    assert "float32 of shape\n(1, 10)" in text
    assert "less (0.4914, 0.4822, 0.4465) and divided by\n(0.2470, 0.2435, 0.2616)" in text
    assert "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy==" in text
    assert re.search(r"A processor of x86_64 with the instructions of `x86-64-v[34]`", text)
    assert re.search(r"glibc 2\.\d+ and libstdc\+\+ 3\.4\.\d+", text)
    assert "OpenCL" not in text
    assert "cross compiler" not in text


def test_all_that_is_needed_is_there_and_no_place_is_left_unfilled(shop: Shop) -> None:
    for cell, folder in shop.folders.items():
        (module,) = folder.glob("*.so")
        assert cache.hash_file(module) == shop.rows[cell].artifact_sha256
        for path in (folder / name for name in ("README.md", "load.py", "load.cc", "check.h")):
            assert not re.search(r"@\w+@", path.read_text()), path.name
        libraries = {path.name for path in (folder / "lib").iterdir()}
        assert {
            "libtvm_runtime.so",
            "libtvm_ffi.so",
            "apache-tvm.LICENSE",
            "apache-tvm-ffi.NOTICE",
        } <= libraries
        assert ("libdlas_opencl.so" in libraries) == (cell == ON_POCL)
        assert "runner" not in libraries


def test_the_page_for_a_board_tells_how_to_compile_for_it() -> None:
    hikey = targets.load("hikey").compiler
    assert page.build_command(hikey).startswith("aarch64-linux-gnu-g++ ")
    assert "cross compiler" in page._cross(hikey)
    assert page._processor(hikey) == (
        "A processor of aarch64 with the instructions of `cortex-a73` and `+neon`, as LLVM names them."
    )
    xavier = targets.load("xavier").compiler
    assert page.build_command(xavier).endswith(" -ldlas_cuda")
    assert "cubins of sm_72" in page._gpu(xavier)


# Which row


def stored(root: Path, *rows: Row) -> Path:
    """An artifacts root with these rows."""
    for row in rows:
        store.write(root, row)
    return root


def test_the_newest_row_that_counts_is_taken(shop: Shop, tmp_path: Path) -> None:
    first = replace(shop.rows[CELL], replicate=0)
    later = timedelta(minutes=1)
    other = replace(
        first, inputs_key="ab" * 32, artifact_sha256="cd" * 32, started_at=first.started_at + later
    )
    root = stored(
        tmp_path, first, other, replace(first, sweep="another", started_at=first.started_at + 2 * later)
    )
    assert measured.find(root, CELL).sweep == "another"
    assert measured.find(root, CELL, "trial").artifact_sha256 == "cd" * 32
    assert measured.find(root, CELL, "path/to/trial.toml").artifact_sha256 == "cd" * 32

    stored(
        root,
        replace(
            other, sweep="another", status="emulated", emulated=True, started_at=first.started_at + 3 * later
        ),
    )
    found = measured.find(root, CELL)
    assert (found.summary is None, found.artifact_sha256) == (False, first.artifact_sha256)


def test_a_row_that_was_emulated_says_so_and_has_no_time(shop: Shop, tmp_path: Path) -> None:
    row = replace(shop.rows[CELL], status="emulated", emulated=True)
    found = measured.find(stored(tmp_path, row), CELL)
    assert found.summary is None
    assert found.device.endswith(", imitating x86_avx")
    assert "no time" in page.describe_time(found)


def test_an_accuracy_comes_with_its_interval(shop: Shop, tmp_path: Path) -> None:
    row = replace(shop.rows[CELL], top1_fraction=0.9, top1_n=100)
    found = measured.find(stored(tmp_path, row), CELL)
    assert page._accuracy(found) == "top-1 90.0% (82.6% .. 94.5%) of 100 test images of cifar10"


RUN = f"`invoke run --sweep cifar --target x86_avx --only '{CELL}'` measures it"


@pytest.mark.parametrize(
    ("cell", "sweep", "message"),
    [
        ("my_tiny", "", "'my_tiny' is no cell's id; `invoke report` prints those that are"),
        (
            CELL.replace("tiny", "tinny"),
            "",
            f"{CELL} was not measured; did you mean {CELL}? {RUN}".replace("tiny", "tinny").replace(
                "mean cifar10/my_tinny", "mean cifar10/my_tiny"
            ),
        ),
        (CELL, "other", f"{CELL} was not measured in sweep other; {RUN.replace('cifar ', 'other ')}"),
    ],
)
def test_a_cell_without_a_row_is_refused(
    cell: str, sweep: str, message: str, shop: Shop, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        export(cell, tmp_path / "to", shop.root, sweep)
    assert str(caught.value) == message
    assert not (tmp_path / "to").exists()


def test_a_cell_whose_row_does_not_count_is_refused_with_the_reason(shop: Shop, tmp_path: Path) -> None:
    good = shop.rows[CELL]
    bad = replace(good, status="wrong_output", reason="the output is wrong", publishable=False)
    bad = replace(
        bad, inputs_key="ab" * 32, started_at=good.started_at + timedelta(minutes=1)
    )  # of newer code
    with pytest.raises(
        UsageError, match=r"has no result, its newest row is wrong_output: the output is wrong;"
    ):
        export(CELL, tmp_path / "to", stored(tmp_path / "root", good, bad))


def test_a_row_that_cannot_be_read_is_named(shop: Shop, tmp_path: Path) -> None:
    path = store.write(tmp_path, shop.rows[CELL])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StorageError, match=f"{path.name} is damaged"):
        measured.find(tmp_path, CELL)


# The artifact


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Path:
    """An artifacts root of one's own, to break."""
    root = tmp_path / "artifacts"
    shutil.copytree(shop.root, root, symlinks=True)
    return root


def module_of(root: Path, cell: str) -> Path:
    """The folder of a cell's artifact."""
    (found,) = (
        path.parent
        for path in root.glob("modules/*/manifest.json")
        if json.loads(path.read_text())["cell"] == cell
    )
    return found


AGAIN = f"`invoke build --sweep trial --target x86_avx --only '{CELL}'` makes it again"


@pytest.mark.parametrize("name", ["model.so", "input.npy", "oracle.npy"])
def test_an_artifact_that_changed_is_refused(name: str, copied: Path, tmp_path: Path) -> None:
    path = module_of(copied, CELL) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError) as caught:
        export(CELL, tmp_path / "to", copied)
    assert str(caught.value).startswith(f"{path.parent} does not hold what was built; delete {path.parent}, ")
    assert AGAIN in str(caught.value)
    assert not (tmp_path / "to").exists()


def test_an_artifact_that_is_gone_is_told_how_to_make(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(module_of(copied, CELL))
    (copied / "modules" / "half").mkdir()
    (copied / "modules" / "half" / "manifest.json").write_text("{")
    with pytest.raises(StorageError, match="no longer has the library that was measured; ") as caught:
        export(CELL, tmp_path / "to", copied)
    assert AGAIN in str(caught.value)


def test_an_artifact_of_another_tvm_is_refused(copied: Path, tmp_path: Path) -> None:
    path = module_of(copied, CELL) / "manifest.json"
    path.write_text(path.read_text().replace("0.27.0.post1", "0.26.0"))
    with pytest.raises(
        StorageError, match=r"compiled for apache-tvm 0.26.0, and 0.27.0.post1 is installed; "
    ):
        export(CELL, tmp_path / "to", copied)


# The folder


def test_a_folder_that_is_not_free_is_left_alone(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name, what in {
        "full": "is not empty",
        "full/mine": "is a file",
        "here": "is the folder you are in",
    }.items():
        with pytest.raises(UsageError, match=f"{tmp_path / name} {what}"):
            export(CELL, tmp_path / name, shop.root)
    assert {path.name for path in tmp_path.rglob("*")} == {"full", "here", "mine"}
    assert (tmp_path / "full" / "mine").read_text() == "precious"


def test_an_empty_folder_behind_a_link_will_do(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert str(tmp_path / "real") in export(CELL, tmp_path / "link", shop.root)
    assert (tmp_path / "link" / "model.so").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_interrupted_it_leaves_nothing(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exports._write_run_time

    def interrupt(folder: Path, libraries: list[Path]) -> None:
        write(folder, libraries)
        raise KeyboardInterrupt

    monkeypatch.setattr(exports, "_write_run_time", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(CELL, tmp_path / "to", shop.root)
    assert not list(tmp_path.iterdir())


def test_the_verb_refuses_in_one_line(shop: Shop, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), "export", CELL]
    ended = subprocess.run(
        [*command, "--to", str(tmp_path / "to"), "--sweep", "other"],
        env=os.environ | {"DLAS_ARTIFACTS": str(shop.root)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"inv export: {CELL} was not measured in sweep other; ")
    assert ended.stderr.count("\n") == 1
