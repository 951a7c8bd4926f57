"""TVM's libraries for another machine; test_runner.py fetches them in earnest."""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path

import pytest

from dlas.errors import BuildError
from dlas.hardware import wheels


def test_the_pip_command(tmp_path: Path) -> None:
    command = wheels.download_command("aarch64", tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--platform=manylinux_2_28_aarch64"} < set(command)
    assert f"apache-tvm=={importlib.metadata.version('apache-tvm')}" in command
    assert "--platform=manylinux_2_32_aarch64" not in command  # L4T r35 has glibc 2.31


def test_a_pip_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    message = r"pip cannot fetch apache-tvm==\S+ and \S+ for aarch64: ERROR: .*; see that pip reaches"
    with pytest.raises(BuildError, match=message):
        wheels.foreign_libraries("aarch64", tmp_path, lambda line: None)
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_wheel_without_the_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(command: list[str], arch: str) -> None:
        folder = next(part for part in command if part.startswith("--dest=")).removeprefix("--dest=")
        for name in ("apache_tvm", "apache_tvm_ffi"):
            with zipfile.ZipFile(Path(folder, f"{name}-1-py3-none-any.whl"), "w") as archive:
                archive.writestr("tvm/lib/libtvm_runtime.so", b"a library")

    monkeypatch.setattr(wheels, "_run_pip", fetch)
    with pytest.raises(BuildError, match=r"of apache-tvm-ffi has no tvm_ffi/lib/libtvm_ffi\.so"):
        wheels.foreign_libraries("aarch64", tmp_path, lambda line: None)
    assert list((tmp_path / "wheels").iterdir()) == []
