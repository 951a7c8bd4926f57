"""Debian packages: real ones from the mirror of this machine, and all that can be wrong with one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dlas.errors import BuildError
from dlas.hardware import debian
from tests.hardware.boards import write_command


def quiet(line: str) -> None:
    """Nobody wants to know."""


def unpack(folder: Path, suite: str = "bookworm", package: str = "libgcc-s1") -> tuple[str, ...]:
    return debian.unpack(suite, "arm64", [package], folder, quiet)


@pytest.mark.aarch64
def test_packages_are_unpacked_and_nothing_else(tmp_path: Path) -> None:
    before = subprocess.check_output(["apt-get", "indextargets"])
    said: list[str] = []
    found = debian.unpack("bookworm", "arm64", ["libgcc-s1", "base-passwd"], tmp_path, said.append)
    assert [re.sub(r"_.*_", "_", name) for name in found] == ["base-passwd_arm64", "libgcc-s1_arm64"]
    assert said == ["fetching 2 packages of Debian bookworm for arm64"]
    library = tmp_path / "lib" / "aarch64-linux-gnu" / "libgcc_s.so.1"
    assert library.read_bytes()[:4] == b"\x7fELF"
    assert not list(tmp_path.rglob("libc.so*"))  # which it depends on
    assert subprocess.check_output(["apt-get", "indextargets"]) == before


@pytest.mark.aarch64
@pytest.mark.parametrize(
    ("suite", "package", "message"),
    [
        ("buzz2", "libc6", "Debian buzz2 for arm64 cannot be fetched: .* does not have a Release file"),
        ("bookworm", "libc5", "Unable to locate package libc5; see that `apt-get update` works here"),
    ],
)
def test_what_the_mirror_does_not_have_is_named(
    tmp_path: Path, suite: str, package: str, message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        unpack(tmp_path, suite, package)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.aarch64
def test_a_mirror_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "mirror", lambda: "http://127.0.0.1:1/debian")
    with pytest.raises(BuildError, match=r"Could not connect to 127\.0\.0\.1:1 .*; see that"):
        unpack(tmp_path)


@pytest.mark.aarch64
def test_a_mirror_that_signs_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "mirror" / "dists" / "bookworm" / "Release"
    release.parent.mkdir(parents=True)
    release.write_text("Origin: Debian\nSuite: bookworm\n")
    monkeypatch.setattr(debian, "mirror", lambda: f"file:{tmp_path}/mirror")
    with pytest.raises(BuildError, match="is not signed"):
        unpack(tmp_path)


def test_a_machine_without_apt_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"apt-get does not start: No such file .*; do it on Debian"):
        unpack(tmp_path)


def test_an_apt_without_debian_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_command(tmp_path / "apt-get", "exit")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BuildError, match="apt knows no Debian mirror; run apt-get update"):
        debian.mirror()


def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/usr/bin/dpkg-deb").exists():
        pytest.skip("there is no dpkg-deb")
    script = 'case $* in *indextargets*) echo somewhere;; *download*) echo x > "libc6_1%3a2_arm64.deb";; esac'
    write_command(tmp_path / "apt-get", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BuildError, match=r"libc6_1%3a2_arm64.deb is damaged: .*; try again"):
        unpack(tmp_path)
