"""What tests share: an artifacts root, and markers for what a machine may lack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from tests.integration.needs import lacks_board, lacks_opencl, lacks_qemu

STAND_IN_BASE = "dlas-base:bookworm-amd64"

# Compiling takes seconds, and says nothing about the code under test.
hypothesis.settings.register_profile("dlas", deadline=None)
hypothesis.settings.load_profile("dlas")


@cache
def lacks_engine() -> str:
    """Why no container engine can be used; empty when one answers."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        answer = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except subprocess.TimeoutExpired:
        return "the container engine does not answer"
    return "" if answer.returncode == 0 else f"no container engine: {answer.stderr.strip()[-200:]}"


@cache
def lacks_cross_compiler() -> str:
    """Why nothing can be compiled for aarch64; empty when it can."""
    return "" if shutil.which("aarch64-linux-gnu-g++") else "there is no aarch64-linux-gnu-g++"


def lacks_browser() -> str:
    """Why no page can be looked at; empty when a browser can."""
    return "" if shutil.which("chromium") else "there is no chromium"


NEEDS: dict[str, Callable[[], str]] = {
    "docker": lacks_engine,
    "aarch64": lacks_cross_compiler,
    "board": lacks_board,
    "qemu": lacks_qemu,
    "opencl": lacks_opencl,
    "browser": lacks_browser,
}


def required() -> set[str]:
    """The markers that must not skip: DLAS_REQUIRE, comma or space separated."""
    return set(re.split(r"[\s,]+", os.environ.get("DLAS_REQUIRE", "").strip())) - {""}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


def pytest_configure(config: pytest.Config) -> None:
    if unknown := required() - set(NEEDS):
        raise pytest.UsageError(f"DLAS_REQUIRE has {', '.join(sorted(unknown))}; it takes {', '.join(NEEDS)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, lacks in NEEDS.items():
        if item.get_closest_marker(marker) is None or not (reason := lacks()):
            continue
        if marker in required():
            pytest.fail(f"{reason}, and DLAS_REQUIRE has {marker}", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts root of the whole session, so that what one test compiled the others find.

    DLAS_TEST_ARTIFACTS names one that outlives the session. Processes of pytest-xdist share theirs.
    """
    if chosen := os.environ.get("DLAS_TEST_ARTIFACTS"):
        root = Path(chosen).resolve()
    else:
        base = tmp_path_factory.getbasetemp()
        root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "artifacts"
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="session")
def base() -> str:
    """What DLAS_BASE names, else what .ci/engine makes if it is there, else the target's own, pulled."""
    from dlas.hardware import engine

    return os.environ.get("DLAS_BASE") or (STAND_IN_BASE if engine.at().find_image(STAND_IN_BASE) else "")


@pytest.fixture
def root(tmp_path: Path, artifacts: Path) -> Path:
    """An artifacts root with its own results, and the session's modules and runner."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in ("modules", "runner"):
        (artifacts / name).mkdir(exist_ok=True)
        (folder / name).symlink_to(artifacts / name)
    return folder
