"""Stand-in base images: the archives, byte by byte, and an old system in which our runner starts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.hardware import bases, debian
from dlas.hardware import engine as engines
from dlas.hardware.engine import Engine
from dlas.hardware.runner import build_runner
from dlas.values import Image
from tests.hardware.boards import BOARD

ARM64 = "linux/arm64"
SUITES = [("bookworm", ARM64), ("bullseye", ARM64), ("bookworm", ARM64), ("bookworm", "linux/amd64")]
PACKAGES = ("base-files_1_arm64", "libc6_2:1-1_arm64")


def quiet(line: str) -> None:
    """Nobody wants to know."""


def fill(folder: Path, time_s: int = 0) -> Path:
    """What packages look like once they are unpacked."""
    files = {
        "bin/tool": "a tool",
        "lib/aarch64-linux-gnu/libc.so.6": "a library",
        "usr/lib/os-release": "a name",
        "usr/share/base-passwd/group.master": "video:*:44:\n",
        "usr/share/base-passwd/passwd.master": "root:*:0:0:root:/:/bin/sh\n",
        "usr/share/doc/libc6/copyright": "a document",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time_s, time_s))
    (folder / "bin" / "tool").chmod(0o755)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "lib" / "ld-linux-aarch64.so.1").symlink_to("aarch64-linux-gnu/ld-2.31.so")
    return folder


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: member for member in opened}


def test_a_layer_is_a_merged_system(tmp_path: Path) -> None:
    found = members(bases.pack_root(fill(tmp_path)))
    assert list(found) == sorted(found)
    assert (found["lib"].linkname, found["bin"].linkname) == ("usr/lib", "usr/bin")
    assert found["usr/lib/aarch64-linux-gnu/libc.so.6"].isfile()
    assert found["usr/lib/ld-linux-aarch64.so.1"].linkname == "aarch64-linux-gnu/ld-2.31.so"
    assert (found["usr/bin/tool"].mode, found["tmp"].mode) == (0o755, 0o1777)
    assert found["etc/group"].size == len("video:*:44:\n")
    assert not [name for name in found if name.startswith(("lib/", "bin/", "usr/share/doc"))]


def test_a_system_that_is_merged_stays_so(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "sbin").symlink_to("usr/sbin")
    (tmp_path / "usr" / "sbin").mkdir()
    found = members(bases.pack_root(tmp_path))
    assert found["sbin"].linkname == "usr/sbin"
    assert found["usr/sbin"].isdir()


def test_the_same_packages_make_the_same_bytes(tmp_path: Path) -> None:
    layers = [bases.pack_root(fill(tmp_path / str(time_s), time_s)) for time_s in (1, 2)]
    assert layers[0] == layers[1]
    assert {member.mtime for member in members(layers[0]).values()} == {0}


def test_one_stand_in_for_each_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        bases, "make_stand_in", lambda *asked: made.append(bases.stand_in_name(*asked[1:3])) or made[-1]
    )
    images = [Image("Dockerfile", "base", platform, suite) for suite, platform in SUITES]
    targets = [BOARD, *(replace(BOARD, image=image) for image in images)]
    expected = ["dlas-base:bookworm-arm64", "dlas-base:bullseye-arm64", "dlas-base:bookworm-amd64"]
    assert bases.make_all(Engine(), targets, tmp_path, quiet) == made == expected


@pytest.mark.docker
def test_a_stand_in_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(suite: str, arch: str, packages: Sequence[str], folder: Path, say: object) -> tuple[str, ...]:
        fill(folder)
        return PACKAGES

    monkeypatch.setattr(debian, "unpack", unpack)
    engine = engines.at()
    said: list[str] = []
    name = bases.make_stand_in(engine, "nonesuch", ARM64, tmp_path, said.append)
    try:
        found = engine.find_image(name)
        assert bases.make_stand_in(engine, "nonesuch", ARM64, tmp_path / "elsewhere", said.append) == name
        labels = json.loads(engine.ask("image", "inspect", "--format={{json .Config.Labels}}", name))
    finally:
        engine.remove_image(name)
    assert name == "dlas-base:nonesuch-arm64"
    assert found is not None
    assert (found.stand_in, found.platform) == (True, ARM64)  # whatever this machine is
    assert labels == {"dlas.stand-in": "true", "dlas.packages": "base-files_1_arm64 libc6_2:1-1_arm64"}
    assert [line.split()[0] for line in said] == ["loading"]


@pytest.mark.docker
@pytest.mark.aarch64
@pytest.mark.qemu
def test_the_runner_starts_on_an_old_system(artifacts: Path) -> None:
    """Debian bullseye has the C library of the oldest board; QEMU runs it where this is no Arm machine."""
    engine = engines.at()
    runner = build_runner(BOARD, artifacts)
    name = bases.make_stand_in(engine, "bullseye", ARM64, artifacts, quiet)
    command = engine.command(
        *("run", "--rm", "--interactive", f"--platform={ARM64}", "--network=none", "--read-only"),
        *("--cap-drop=ALL", "--user=10001:10001", "--group-add=video"),
        *(f"--volume={runner.folder}:/opt/dlas:ro", name, "/opt/dlas/runner", "probe"),
    )
    ended = subprocess.run(
        command, input=b"observe=/etc/debian_version\n", capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["files"]["/etc/debian_version"].startswith("11.")
