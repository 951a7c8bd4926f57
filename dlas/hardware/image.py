"""The container image of a target: a base, the runner, and nothing that has to run while it is built."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dlas.errors import EngineError, TargetError
from dlas.hardware import commands, engine
from dlas.hardware.process import exchange
from dlas.hardware.protocol import MAX_LINE_BYTES, one_line
from dlas.hardware.runner import Runner, build_runner
from dlas.values import Image, Target

Log = Callable[[str], None]

_ROOT = Path(__file__).parents[2]
_CHECK_S = 120


def build_image(target: Target, artifacts: Path, base: str, log: Log) -> str:
    """Build the image of a target, see that its runner starts in it, and tag it. Returns the image's id.

    base: an image to take instead of the pinned one, "" for none; it makes the image a stand-in by label.
    log gets what the engine says, line by line. Raises TargetError, BuildError, StorageError, EngineError.
    """
    chosen = base or _image(target).base
    runner = build_runner(target, artifacts)
    docker = engine.cli()
    if engine.find_image(chosen) is None:
        _pull(docker, target, chosen, log)
    with tempfile.TemporaryDirectory() as folder:
        id_file = Path(folder, "id")
        command = build_command(docker, target, runner, base, id_file)
        if said := _stream(command, log, engine.environment() | _builder(docker)):
            raise EngineError(f"{target.name}: its image could not be built: {said}", "see the lines above")
        image_id = id_file.read_text().strip()
    _start(docker, target, image_id)
    engine.tag_image(image_id, target.image_tag)
    return image_id


def build_command(docker: str, target: Target, runner: Runner, base: str, id_file: Path) -> list[str]:
    """The command line of a build. The runner's folder is all that the engine gets to see."""
    image = _image(target)
    labels = {
        engine.RUNNER_LABEL: runner.key,
        engine.BASE_LABEL: base or image.base,
        engine.STAND_IN_LABEL: "true" if base else "false",
    }
    return [
        docker,
        "build",
        f"--platform={image.platform}",
        f"--file={_ROOT / image.dockerfile}",
        f"--build-arg=BASE={base or image.base}",
        *(f"--label={key}={value}" for key, value in labels.items()),
        f"--iidfile={id_file}",
        str(runner.folder),
    ]


def _image(target: Target) -> Image:
    if target.image is None:
        raise TargetError(f"{target.name}: no image can be built for it", "give its TOML an [image] table")
    return target.image


def _builder(docker: str) -> dict[str, str]:
    """BuildKit needs a plugin since Docker 23, and such a CLI refuses to build without being told that it is
    not there. The Dockerfile needs nothing that the older builder lacks."""
    plugin = subprocess.run([docker, "buildx", "version"], capture_output=True, check=False)
    return {"DOCKER_BUILDKIT": "1" if plugin.returncode == 0 else "0"}


def _pull(docker: str, target: Target, base: str, log: Log) -> None:
    command = [docker, "pull", f"--platform={_image(target).platform}", base]
    if said := _stream(command, log, engine.environment()):
        raise EngineError(
            f"{target.name}: the base image {base} cannot be pulled: {said}",
            f"without a registry, {engine.build_hint(target)} --base IMAGE takes an image that is here",
        )


def _stream(command: Sequence[str], log: Log, environment: Mapping[str, str]) -> str:
    """The last line that a failed command said; empty when it did not fail."""
    last = ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in filter(None, map(one_line, process.stdout or ())):
            last = line
            log(line)
    return (last or "it said nothing") if process.returncode else ""


def _start(docker: str, target: Target, image_id: str) -> None:
    command = commands.docker_probe_command(docker, image_id)
    environment = engine.environment()
    ended = exchange(command, (), limit_bytes=MAX_LINE_BYTES, timeout_s=_CHECK_S, env=environment)
    if ended.returncode != 0:
        engine.remove_image(image_id)
        raise EngineError(
            f"{target.name}: the runner does not start in its image: {one_line(ended.log)}",
            "choose a base with a C library as new as this machine's",
        )
