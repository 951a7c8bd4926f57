"""The container image of a target: a base, the runner, and nothing that has to run while it is built."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from dlas.errors import DeviceError, EngineError, TargetError
from dlas.hardware import bases, commands, imagefiles
from dlas.hardware import engine as engines
from dlas.hardware.engine import Engine, Log
from dlas.hardware.process import exchange
from dlas.hardware.protocol import MAX_LINE_BYTES, one_line
from dlas.hardware.runner import Runner, build_runner
from dlas.values import ContainerImage, Image, Target

_ROOT = Path(__file__).parents[2]
_CHECK_S = 120
_SHIP_S = 1800
_FOREIGN = "exec format error"  # what a kernel says of a program for another processor


def build_image(target: Target, artifacts: Path, base: str, log: Log) -> ContainerImage:
    """Build the image of a target on this machine's engine, see that its runner starts in it, and tag it.

    base: an image to take instead of the pinned one, "" for none; it makes the image a stand-in by label.
    Where the pinned base cannot be pulled, a stand-in made of Debian packages takes its place, which log is
    told, as it is told what the engine says, line by line. Raises TargetError, BuildError, StorageError, or
    EngineError.
    """
    image = _image(target)
    engine = engines.at()
    runner = build_runner(target, artifacts, log)
    base = _obtain_base(engine, target, image, base, artifacts, log)
    with tempfile.TemporaryDirectory() as folder:
        id_file = Path(folder, "id")
        command = build_command(engine, target, runner, base, id_file)
        if said := engines.stream(command, log, engines.environment() | bases.builder(engine)):
            raise EngineError(f"{target.name}: its image could not be built: {said}", "see the lines above")
        image_id = id_file.read_text().strip()
    image_id = imagefiles.make_reproducible(engine, image_id, base)
    _start(engine, target, image_id, log)
    engine.tag_image(image_id, target.image_tag)
    found = engine.find_image(image_id)
    if found is None:
        raise EngineError(f"{target.name}: its image is gone again", "build it again")
    return found


def build_command(engine: Engine, target: Target, runner: Runner, base: str, id_file: Path) -> list[str]:
    """The command line of a build. The runner's folder is all that the engine gets to see.

    base: in place of the pinned one, "" for none. Raises TargetError or EngineError.
    """
    image = _image(target)
    labels = {
        engines.RUNNER_LABEL: runner.key,
        engines.BASE_LABEL: base or image.base,
        engines.STAND_IN_LABEL: "true" if base and base != image.base else "false",
    }
    return engine.command(
        "build",
        f"--platform={image.platform}",
        f"--file={_ROOT / image.dockerfile}",
        f"--build-arg=BASE={base or image.base}",
        *(f"--label={key}={value}" for key, value in labels.items()),
        f"--iidfile={id_file}",
        str(runner.folder),
    )


def ship_image(target: Target, image: ContainerImage, source: Engine, sink: Engine, log: Log) -> None:
    """Copy an image from one engine to another, and tag it there. Raises EngineError."""
    log(f"{target.name}: shipping its image to {sink.host} ({image.size_bytes / 1e6:.0f} MB)")
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(
            source.command("save", image.id), stdout=subprocess.PIPE, stderr=words, env=engines.environment()
        ) as save,
    ):
        try:
            loaded = subprocess.run(
                sink.command("load", "--quiet"),
                stdin=save.stdout,
                capture_output=True,
                env=engines.environment(),
                timeout=_SHIP_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError(
                f"{target.name}: its image did not get to {sink.host} within {_SHIP_S} s",
                "carry it there with `inv images save` and `load`",
            ) from error
        finally:
            save.kill()
        words.seek(0)
        said = loaded.stderr.decode(errors="replace") or words.read().decode(errors="replace")
    if loaded.returncode != 0:
        raise EngineError(
            f"{target.name}: its image cannot be shipped to {sink.host}: {one_line(said)}", sink.remedy
        )
    sink.tag_image(image.id, target.image_tag)


def _image(target: Target) -> Image:
    if target.image is None:
        raise TargetError(f"{target.name}: no image can be built for it", "give its TOML an [image] table")
    return target.image


def _obtain_base(engine: Engine, target: Target, image: Image, asked: str, artifacts: Path, log: Log) -> str:
    """The base that was asked for or is pinned, pulled where it is not there; else, and never without a word,
    a stand-in for the pinned one."""
    base = asked or image.base
    if engine.find_image(base) is not None:
        return base
    said = engine.stream(log, "pull", f"--platform={image.platform}", base)
    if not said:
        return base
    if asked:
        raise EngineError(
            f"{target.name}: the base image {base} cannot be pulled: {said}", "leave --base out"
        )
    log(f"{target.name}: the base image {image.base} cannot be pulled: {said}")
    name = bases.make_stand_in(engine, image.stand_in, image.platform, artifacts, log)
    log(f"{target.name}: built on the stand-in {name}: the image is marked, and so are the rows it gives")
    return name


def _start(engine: Engine, target: Target, image_id: str, log: Log) -> None:
    command = commands.docker_probe_command(engine, image_id)
    try:
        ended = exchange(
            command, (), limit_bytes=MAX_LINE_BYTES, timeout_s=_CHECK_S, env=engines.environment()
        )
    except DeviceError as error:
        raise EngineError(f"{target.name}: the runner does not start in its image: {error.cause}") from error
    if ended.returncode == 0:
        return
    if _FOREIGN in ended.log:
        return log(
            f"{target.name}: not started here, as this machine runs no {_image(target).platform} programs"
        )
    engine.remove_image(image_id)
    raise EngineError(
        f"{target.name}: the runner does not start in its image: {one_line(ended.log)}",
        "choose a base with a C library as new as the runner's",
    )
