"""The container engine. The docker SDK asks it; builds and jobs go through the CLI, since the SDK has only
the legacy builder, and cannot tell a container that its input has ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.images import Image

from dlas.errors import EngineError
from dlas.values import Target

# Labels of an image: the key of its runner, the image below it, and whether that is not the target's own.
RUNNER_LABEL = "dlas.runner"
BASE_LABEL = "dlas.base"
STAND_IN_LABEL = "dlas.stand-in"
_NEXT_STEP = "start it, or use --runner local"


@contextmanager
def connection() -> Iterator[DockerClient]:
    """The engine of DOCKER_HOST, or else of this machine. Raises EngineError when it is silent or refuses."""
    try:
        client = DockerClient.from_env(environment=environment(), timeout=30)
    except (DockerException, OSError) as error:
        reason = f"{environment()['DOCKER_HOST']}: {_root_cause(error)}"
        raise EngineError(f"no Docker engine answers: {reason}", _NEXT_STEP) from error
    try:
        yield client
    except (DockerException, OSError) as error:
        raise EngineError(
            f"the Docker engine refused: {' '.join(str(error).split())[:200]}", _NEXT_STEP
        ) from error
    finally:
        client.close()


def environment() -> dict[str, str]:
    """For the CLI too: both must speak to the same engine, whatever the CLI's current context is."""
    return {"DOCKER_HOST": "unix:///var/run/docker.sock", **os.environ}


def cli() -> str:
    """Path of the docker command. Raises EngineError."""
    path = shutil.which("docker")
    if path is None:
        raise EngineError("there is no docker command", "install it, or use --runner local")
    return path


def build_hint(target: Target) -> str:
    """What builds the image of a target."""
    return f"inv build --target {min(target.aliases, key=len, default=target.name)}"


def version() -> str:
    """Raises EngineError."""
    with connection() as client:
        return str(client.version()["Version"])


def find_image(reference: str) -> Image | None:
    """The image of a tag or an id that this machine has, or None. Raises EngineError."""
    with connection() as client:
        try:
            return client.images.get(reference)
        except ImageNotFound:
            return None


def tag_image(image_id: str, tag: str) -> None:
    """Raises EngineError."""
    with connection() as client:
        client.images.get(image_id).tag(tag)


def remove_image(image_id: str) -> None:
    """Raises EngineError."""
    with connection() as client:
        client.images.remove(image_id)


def remove_container(name: str) -> None:
    """Kill and remove a container; nothing happens when there is none. Raises EngineError."""
    with connection() as client:
        try:
            client.containers.get(name).remove(force=True)
        except NotFound:
            return


def _root_cause(error: BaseException) -> str:
    """What the operating system said, under the three libraries that wrapped it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(getattr(error, "strerror", None) or error)[:200]
