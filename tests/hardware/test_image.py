"""The image of a target: its command line, and real builds where there is an engine."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.errors import EngineError, TargetError
from dlas.hardware import bases, engine, targets
from dlas.hardware.device import DockerDevice
from dlas.hardware.engine import Engine
from dlas.hardware.image import build_command, build_image
from dlas.hardware.runner import Runner, interface_key
from dlas.values import Image, Target

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))


def test_the_build_command(host: Target) -> None:
    command = build_command(
        Engine(), host, Runner(Path("/a/runner/f00"), "f00"), "x@sha256:0", False, Path("/t/id")
    )
    assert command[1:] == [
        "--host=unix:///var/run/docker.sock",
        "build",
        "--platform=linux/amd64",
        f"--file={ROOT}/docker/runner/Dockerfile",
        "--build-arg=BASE=x@sha256:0",
        f"--label=dlas.runner={interface_key(host)}",
        "--label=dlas.base=x@sha256:0",
        "--label=dlas.stand-in=false",
        "--iidfile=/t/id",
        "/a/runner/f00",
    ]


def test_another_base_makes_a_stand_in(host: Target) -> None:
    command = build_command(Engine(), host, Runner(Path("/a"), "f00"), "mine:1", True, Path("/t/id"))
    assert "--build-arg=BASE=mine:1" in command
    assert {"--label=dlas.base=mine:1", "--label=dlas.stand-in=true"} < set(command)


def test_a_target_without_an_image_is_named(host: Target, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"test_host: no image can be built for it; .*\[image\]"):
        build_image(replace(host, image=None), tmp_path, "", print)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_nothing_runs_while_an_image_is_built(path: Path) -> None:
    steps = [line.split()[0] for line in path.read_text().splitlines() if re.match("[A-Z]+ ", line)]
    assert set(steps) <= {"ARG", "FROM", "COPY", "ENV", "USER", "ENTRYPOINT"}
    assert "syntax=" not in path.read_text()  # it would need a registry
    assert re.search(r"^USER \d+:\d+$", path.read_text(), re.MULTILINE)


def test_every_shipped_image_has_its_dockerfile() -> None:
    assert DOCKERFILES
    for target in targets.known():
        assert target.image is None or (ROOT / target.image.dockerfile).is_file()


@pytest.mark.docker
def test_an_image_says_what_is_in_it(container: DockerDevice, host: Target, base: str) -> None:
    found = engine.at().find_image(host.image_tag)
    assert found is not None
    assert found == container.image
    assert (found.runner, found.base) == (interface_key(host), base or "debian:bookworm-slim")
    assert found.stand_in == bool(base)
    assert found.platform == "linux/amd64"
    settings = json.loads(engine.at().ask("image", "inspect", "--format={{json .Config}}", found.id))
    assert (settings["User"], settings["Entrypoint"]) == ("10001:10001", ["/opt/dlas/runner"])


@pytest.mark.docker
def test_an_image_holds_the_bytes_of_the_local_runner(
    container: DockerDevice, program: Runner, tmp_path: Path
) -> None:
    stopped = container.engine.ask("create", container.image.id, "probe").strip()
    try:
        container.engine.ask("cp", f"{stopped}:/opt/dlas", str(tmp_path / "dlas"))
    finally:
        container.engine.remove_container(stopped)
    files = {path.name: path.read_bytes() for path in (tmp_path / "dlas").iterdir()}
    assert files == {path.name: path.read_bytes() for path in program.folder.iterdir()}


@pytest.mark.docker
def test_building_again_gives_the_same_image(
    container: DockerDevice, host: Target, base: str, artifacts: Path
) -> None:
    lines: list[str] = []
    assert build_image(host, artifacts, base, lines.append) == container.image
    assert lines


@pytest.mark.docker
def test_a_base_that_cannot_be_had_is_named(host: Target, artifacts: Path, program: Runner) -> None:
    nowhere = "127.0.0.1:1/dlas/nothing:none"
    with pytest.raises(EngineError, match=r"nothing:none cannot be pulled: .*; leave --base out"):
        build_image(host, artifacts, nowhere, lambda line: None)


@pytest.fixture
def empty_base(tmp_path: Path) -> Iterator[str]:
    """An image without a C library."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    name = "dlas-test-empty:none"
    (tmp_path / "empty.tar").write_bytes(out.getvalue())
    engine.at().ask("import", str(tmp_path / "empty.tar"), name)
    yield name
    engine.at().remove_image(name)


@pytest.mark.docker
def test_a_base_in_which_the_runner_does_not_start_is_refused(
    host: Target, artifacts: Path, empty_base: str
) -> None:
    other = replace(host, name="test_empty")
    with pytest.raises(EngineError, match="test_empty: the runner does not start in its image"):
        build_image(other, artifacts, empty_base, lambda line: None)
    assert engine.at().find_image(other.image_tag) is None


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_dockerfile_has_nothing_that_a_linter_minds(path: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([linter, path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_every_base_is_pinned_and_has_a_stand_in() -> None:
    images = [target.image for target in targets.known() if "docker" in target.board.runners or target.image]
    assert len(images) >= 5
    for found in images:
        assert found is not None
        assert re.search(r"@sha256:[0-9a-f]{64}$", found.base)
        assert found.stand_in in ("bookworm", "bullseye")


@pytest.mark.docker
@pytest.mark.aarch64
@pytest.mark.parametrize("name", ["hikey970_neon", "xavier_cuda", "x86_avx"])
def test_an_image_is_small_and_says_that_its_base_is_none(name: str, artifacts: Path) -> None:
    target = replace(targets.load(name), name=f"test_{name}")
    assert target.image is not None
    own = engine.at()
    lines: list[str] = []
    base = bases.make_stand_in(own, target.image.stand_in, target.image.platform, artifacts, lines.append)
    found = build_image(target, artifacts, base, lines.append)
    try:
        under = own.find_image(base)
        assert under is not None
        assert 0 < found.size_bytes - under.size_bytes < 100e6
        assert (found.base, found.stand_in, found.platform) == (base, True, target.image.platform)
    finally:
        own.remove_image(target.image_tag)


@pytest.mark.docker
def test_a_base_that_cannot_be_pulled_has_a_stand_in_and_that_is_said(host: Target, artifacts: Path) -> None:
    nowhere = f"127.0.0.1:1/dlas/nothing@sha256:{'0' * 64}"
    target = replace(host, name="test_stand_in", image=replace(host.image or Image("", "", ""), base=nowhere))
    lines: list[str] = []
    found = build_image(target, artifacts, "", lines.append)
    try:
        assert (found.stand_in, found.base) == (True, "dlas-base:bookworm-amd64")
    finally:
        engine.at().remove_image(target.image_tag)
    assert any(line.startswith(f"test_stand_in: the base image {nowhere} cannot be pulled") for line in lines)
    assert "test_stand_in: built on the stand-in dlas-base:bookworm-amd64" in "\n".join(lines)
