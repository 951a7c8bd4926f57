"""The files that define a network are known without running them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dlas.models.sources
from dlas.errors import ModelError
from dlas.models.sources import source_files
from dlas.values import ModelSpec

OWN = Path(dlas.models.sources.__file__).parent


TRAINING = ("checkpoint", "learner", "recipe", "train", "trainer", "weights")
OURS = set(OWN.glob("*.py")) - {OWN / f"{name}.py" for name in TRAINING}


def spec(factory: str) -> ModelSpec:
    return ModelSpec("mine", factory, (1, 3, 32, 32))


def user_files(factory: str, folder: Path) -> set[str]:
    """Names, below a folder, of the source files there."""
    files = source_files(spec(factory))
    assert {path for path in files if not path.is_relative_to(folder)} == OURS
    return {str(path.relative_to(folder)) for path in files if path.is_relative_to(folder)}


def test_our_own_networks_are_their_package() -> None:
    files = source_files(spec("dlas.models.resnet:resnet18"))
    assert set(files) == OURS
    assert list(files) == sorted(files)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from dlas.models.sources import source_files; from dlas.values import ModelSpec; "
        f"source_files({spec('dlas.models.resnet:resnet18')!r}); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_imports_are_followed_and_nothing_runs(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    write("own_net.py", "import json, torch, own_helper\nfrom own_package import part\nraise SystemExit")
    write("own_helper.py", "def f():\n    import own_late")
    write("own_late.py", "import own_net")
    write("own_unused.py", "")
    write("own_package/__init__.py", "raise SystemExit")
    write("own_package/part.py", "from . import sibling as other\nfrom .deep.leaf import value")
    write("own_package/sibling.py", "from .absent import nothing")
    write("own_package/unused.py", "")
    write("own_package/deep/__init__.py", "from ..sibling import *")
    write("own_package/deep/leaf.py", "value = 1")
    package = {"__init__.py", "part.py", "sibling.py", "deep/__init__.py", "deep/leaf.py"}
    modules = {"own_net.py", "own_helper.py", "own_late.py"}
    assert user_files("own_net:net", tmp_path) == modules | {f"own_package/{name}" for name in package}
    assert user_files("own_package.deep.leaf:net", tmp_path) == {
        "own_package/__init__.py",
        "own_package/sibling.py",
        "own_package/deep/__init__.py",
        "own_package/deep/leaf.py",
    }
    assert not {"own_net", "own_package"} & set(sys.modules)


def test_of_an_installed_module_its_package_is_taken() -> None:
    folder = Path(json.__file__).parent.resolve()
    assert "decoder.py" in user_files("json.encoder:net", folder)
    assert user_files("this:net", folder.parent) == {"this.py"}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            "own_absent:net",
            "model mine: no Python module 'own_absent' in .* correct the factory, or run from",
        ),
        ("json.absent:net", "no Python module 'json.absent'"),
        ("own_wrong:net", "own_wrong.py, line 2: .*; correct the file"),
        ("sys:net", "no Python module 'sys'"),
        ("dlas.models.resnet", "is not package.module:function"),
        (":net", "is not package.module:function"),
    ],
)
def test_what_cannot_be_found_says_so(write: Callable[[str, str], Path], factory: str, message: str) -> None:
    write("own_wrong.py", "import torch\ndef net(:")
    with pytest.raises(ModelError, match=message):
        source_files(spec(factory))
