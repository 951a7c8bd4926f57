"""The container image of a target: a base, the runner, and nothing that has to run while it is built."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from dlas.errors import DeviceError, EngineError, TargetError
from dlas.hardware import bases, imagefiles
from dlas.hardware import engine as engines
from dlas.hardware.engine import Engine, Log
from dlas.hardware.process import exchange
from dlas.hardware.protocol import MAX_LINE_BYTES, one_line
from dlas.hardware.runner import Runner, build_runner, interface_key
from dlas.values import ContainerImage, Image, Target

_ROOT = Path(__file__).parents[2]
_CHECK_S = 120
_SHIP_S = 1800
_CHUNK_BYTES = 1 << 20
_FOREIGN = "exec format error"  # of a program for another processor; an init in between would hide it


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
        under = engine.find_image(base)
        is_stand_in = base != image.base or (under is not None and under.stand_in)
        command = build_command(engine, target, runner, base, is_stand_in, id_file)
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


def build_command(
    engine: Engine, target: Target, runner: Runner, base: str, is_stand_in: bool, id_file: Path
) -> list[str]:
    """The command line of a build. The runner's folder is all that the engine gets to see.

    Raises TargetError or EngineError.
    """
    image = _image(target)
    labels = {
        engines.RUNNER_LABEL: interface_key(target),
        engines.BASE_LABEL: base,
        engines.STAND_IN_LABEL: "true" if is_stand_in else "false",
    }
    return engine.command(
        "build",
        f"--platform={image.platform}",
        f"--file={_ROOT / image.dockerfile}",
        f"--build-arg=BASE={base}",
        *(f"--label={key}={value}" for key, value in labels.items()),
        f"--iidfile={id_file}",
        str(runner.folder),
    )


def ship_image(target: Target, image: ContainerImage, source: Engine, sink: Engine, log: Log) -> None:
    """Copy an image from one engine to another, and tag it there. Raises EngineError."""
    log(f"{target.name}: shipping its image to {sink.host} ({image.size_bytes / 1e6:.0f} MB)")
    with source.saving(image.id) as read:
        sink.load(iter(partial(read, _CHUNK_BYTES), b""), _SHIP_S)
    if sink.find_image(image.id) is None:
        raise EngineError(
            f"{target.name}: {sink.host} gives its image another id than {image.id}",
            "switch off the engine's containerd image store",
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
    command = engine.command("run", "--rm", "--interactive", "--network=none", image_id, "probe")
    try:
        ended = exchange(
            command, (), limit_bytes=MAX_LINE_BYTES, timeout_s=_CHECK_S, env=engines.environment()
        )
    except DeviceError as error:
        raise EngineError(f"{target.name}: the runner does not start in its image: {error.cause}") from error
    if ended.returncode == 0:
        return
    if _FOREIGN in ended.log.lower():
        return log(
            f"{target.name}: not started here, as this machine runs no {_image(target).platform} programs"
        )
    engine.discard_image(image_id)
    raise EngineError(
        f"{target.name}: the runner does not start in its image: {one_line(ended.log)}",
        "choose a base with a C library as new as the runner's",
    )
