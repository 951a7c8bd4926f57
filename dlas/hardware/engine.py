"""A container engine, through the docker command: on this machine, or on a board over the user's own ssh.

The command and not the SDK, so that one program reaches an engine in one way: with the user's ssh
configuration, and nothing on a board but its engine.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from dlas.errors import DeviceError, DeviceLostError, EngineError
from dlas.hardware.process import exchange
from dlas.hardware.protocol import one_line
from dlas.values import ContainerImage, Target

Log = Callable[[str], None]
T = TypeVar("T")

LOCAL = "unix:///var/run/docker.sock"
# Labels of an image: the key of its runner, the image below it, and whether that is not the target's own.
RUNNER_LABEL = "dlas.runner"
BASE_LABEL = "dlas.base"
STAND_IN_LABEL = "dlas.stand-in"
JOB_LABEL = "dlas.job"  # of a container: the target that its job is for
_ANSWER_S = 60.0
_POLL_S = 0.1
HELP = ("See 'docker", "Run 'docker")  # where a docker command ends with where to find help
_SILENT_S = 600  # older engines write all of an image to their disk before they send the first byte
_ID = r"sha256:[0-9a-f]{64}"
_MAX_ANSWER_BYTES = 8 << 20
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # what some engines say, and what targets say


@dataclass(frozen=True)
class EngineFacts:
    """architecture: as in a target, x86_64 or aarch64. runtimes: the container run times that it has."""

    version: str
    architecture: str
    cpus: int
    runtimes: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """host: as DOCKER_HOST has it, such as ssh://hikey."""

    host: str = LOCAL

    @property
    def is_local(self) -> bool:
        """Whether its containers can borrow files of this machine."""
        return self.host.startswith("unix://")

    @property
    def remedy(self) -> str:
        """What to do when it does not answer."""
        if self.is_local:
            return "start it, or use --runner local"
        return f"see that `docker --host {self.host} version` answers"

    def command(self, *arguments: str) -> list[str]:
        """A command line of the docker command. Raises EngineError when there is none."""
        path = shutil.which("docker")
        if path is None:
            raise EngineError("there is no docker command", "install it, or use --runner local")
        return [path, f"--host={self.host}", *arguments]

    def ask(self, *arguments: str, timeout_s: float = _ANSWER_S) -> str:
        """What a command says. Raises EngineError with the reason that the engine gave."""
        command = self.command(*arguments)
        try:
            ended = exchange(
                command, (), limit_bytes=_MAX_ANSWER_BYTES, timeout_s=timeout_s, env=environment()
            )
        except DeviceError as error:
            raise EngineError(f"{self.host}: {error.cause}", self.remedy) from error
        if ended.returncode != 0:
            self.refuse(ended.log)
        return ended.stdout.decode("utf-8", "replace")

    def stream(self, log: Log, *arguments: str) -> str:
        """Run a command that takes long, its lines to `log`; the last one where it failed, else nothing."""
        return stream(self.command(*arguments), log, environment())

    def load(self, archive: Iterable[bytes], timeout_s: float) -> None:
        """Give it images in the form that `docker save` writes. Raises EngineError, also for a full disk."""
        command = self.command("load", "--quiet")
        try:
            ended = exchange(
                command, archive, limit_bytes=_MAX_ANSWER_BYTES, timeout_s=timeout_s, env=environment()
            )
        except DeviceError as error:
            raise EngineError(f"{self.host}: `docker load`: {error.cause}", self.remedy) from error
        if ended.returncode == 0:
            return
        words = one_line(ended.log)
        if "no space left" in words and not why_unreachable(ended.log):
            raise EngineError(
                f"{self.host}: no space is left for the image: {words}",
                "free some on the engine's disk (`docker system df` shows what takes it), then try again",
            )
        self.refuse(ended.log)

    @contextmanager
    def saving(self, image_id: str) -> Iterator[Callable[[int], bytes]]:
        """What reads `docker save` of an image, some bytes at a time, none at its end. Raises EngineError."""
        command = self.command("save", image_id)
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment()
            ) as process,
        ):
            assert process.stdout is not None
            pipe = process.stdout.fileno()

            def read(size: int) -> bytes:
                if not select.select([pipe], [], [], _SILENT_S)[0]:
                    raise EngineError(
                        f"{self.host}: `docker save` said nothing for {_SILENT_S} s", self.remedy
                    )
                data = os.read(pipe, size)
                if not data and process.wait() != 0:
                    log.seek(0)
                    self.refuse(log.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace"))
                return data

            try:
                yield read
            finally:
                process.kill()

    def refuse(self, said: str) -> NoReturn:
        """Raise the EngineError of what a failed command said."""
        if why := why_unreachable(said):
            raise DeviceLostError(f"no Docker engine answers: {self.host}: {why}", self.remedy)
        raise EngineError(f"{self.host}: the Docker engine refused: {one_line(said)}", self.remedy)

    def facts(self) -> EngineFacts:
        """Raises EngineError."""
        text = self.ask("info", "--format={{json .}}")
        with self._understanding():
            about = _typed(json.loads(text), dict)
            if problems := about.get("ServerErrors"):  # the command itself then succeeds
                self.refuse(" ".join(problems))
            machine = one_line(_typed(about["Architecture"], str))
            return EngineFacts(
                version=one_line(_typed(about["ServerVersion"], str)),
                architecture=_ARCHITECTURES.get(machine, machine),
                cpus=max(1, _typed(about["NCPU"], int)),
                runtimes=tuple(map(one_line, _typed(about.get("Runtimes") or {}, dict))),
            )

    def find_image(self, reference: str) -> ContainerImage | None:
        """The image of a tag or an id that this engine has, or None. Raises EngineError."""
        try:
            text = self.ask("image", "inspect", reference)
        except EngineError as error:
            if "no such image" in error.cause.lower():
                return None
            raise
        with self._understanding():
            (about,) = _typed(json.loads(text), list)
            labels = _typed(about["Config"].get("Labels") or {}, dict)
            return ContainerImage(
                id=_matching(_ID, about["Id"]),
                base=one_line(_typed(labels.get(BASE_LABEL, ""), str)),
                stand_in=labels.get(STAND_IN_LABEL) == "true",
                runner=one_line(_typed(labels.get(RUNNER_LABEL, ""), str)),
                platform=one_line(f"{_typed(about['Os'], str)}/{_typed(about['Architecture'], str)}"),
                size_bytes=_typed(about["Size"], int),
            )

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """An engine is not trusted: what it says may be anything."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EngineError(
                f"{self.host}: what the Docker engine says cannot be used: {one_line(repr(error))[:100]}",
                self.remedy,
            ) from error

    def tag_image(self, image_id: str, tag: str) -> None:
        """Raises EngineError."""
        self.ask("image", "tag", image_id, tag)

    def remove_image(self, reference: str) -> None:
        """Raises EngineError."""
        self.ask("image", "rm", reference)

    def discard_image(self, image_id: str) -> None:
        """Remove an image that has no tag; one that has is somebody's and stays. Raises EngineError."""
        if json.loads(self.ask("image", "inspect", "--format={{json .RepoTags}}", image_id)):
            return
        self.remove_image(image_id)

    def remove_container(self, name: str) -> None:
        """Kill and remove a container; nothing happens when there is none. Raises EngineError."""
        deadline = time.monotonic() + _ANSWER_S
        while True:
            try:
                self.ask("container", "rm", "--force", name)
                return
            except EngineError as error:
                words = error.cause.lower()
                if "no such container" in words:
                    return
                # One that has just ended is being removed by the engine; until then its name is taken.
                if "already in progress" not in words or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def jobs(self) -> tuple[str, ...]:
        """The names of the containers of jobs that it has, running or left behind. Raises EngineError."""
        listed = self.ask("container", "ls", "--all", f"--filter=label={JOB_LABEL}", "--format={{.Names}}")
        return tuple(name for name in listed.split() if re.fullmatch(r"[\w.-]+", name, re.ASCII))


def _matching(pattern: str, value: Any) -> str:
    """What goes into command lines again must not look like an option."""
    if not re.fullmatch(pattern, _typed(value, str)):
        raise ValueError(f"{value[:80]!r} where {pattern} should be")
    return str(value)


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:  # not isinstance: True is no number
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} should be")
    return value


def at(host: str = "") -> Engine:
    """The engine of this address, else of DOCKER_HOST, else of this machine."""
    return Engine(host or os.environ.get("DOCKER_HOST") or LOCAL)


def environment() -> dict[str, str]:
    """The user's, less what would send the docker command to another engine than the one it is told."""
    return {key: value for key, value in os.environ.items() if key not in ("DOCKER_HOST", "DOCKER_CONTEXT")}


def why_unreachable(said: str) -> str:
    """Why the docker command found no engine at the other end, out of its long sentence; empty where it did.

    Some put what ssh said in quotes, as Go does, some end with where to find help.

    >>> why_unreachable("error during connect: ... stderr=ssh: connect to host hikey: No route to host")
    'ssh: connect to host hikey: No route to host'
    >>> why_unreachable("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
    'is its daemon running?'
    """
    lines = said.replace("\\r", "").replace("\\n", "\n").splitlines()
    words = " ".join(" ".join(line for line in lines if not line.startswith(HELP)).split())
    signs = ("Cannot connect to the Docker daemon", "error during connect", "failed to connect", "dial-stdio")
    if not any(sign in words for sign in signs):
        return ""
    reason = words.rpartition("stderr=")[2].strip(' ."') or words
    return one_line(re.sub(r"Cannot connect to the Docker daemon at \S+ Is the docker", "is its", reason))


def stream(command: Sequence[str], log: Log, environment: Mapping[str, str]) -> str:
    """Run a command, its lines to `log`. The last line of one that failed; empty when it did not fail."""
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


def build_hint(target: Target) -> str:
    """What builds the image of a target."""
    return f"inv build --target {min(target.aliases, key=len, default=target.name)}"
