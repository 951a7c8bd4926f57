"""A docker command that answers as it is told, and notes what it was asked."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

SCRIPT = """#!{python}
import json, sys
from pathlib import Path
folder = Path({folder!r})
words = [word for word in sys.argv[1:] if not word.startswith("--host=")]
with (folder / "asked").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
for start, code, out, err in json.loads((folder / "answers").read_text()):
    if words[: len(start)] == start:
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
sys.exit(f"not foreseen: {{words}}")
"""


class FakeDocker:
    """Put it first on PATH. Answers are found by the words that a command begins with, the last one first."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._answers: list[tuple[list[str], int, str, str]] = []
        program = folder / "docker"
        program.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        self.answer("", "")

    def answer(self, start: str, out: str = "", *, err: str = "", code: int = 0) -> None:
        self._answers.insert(0, (shlex.split(start), code, out, err))
        (self._folder / "answers").write_text(json.dumps(self._answers))

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in (self._folder / "asked").read_text().splitlines()]


def info(architecture: str = "aarch64", **changes: object) -> str:
    """What `docker info` says of an engine."""
    about = {"ServerVersion": "27.0", "Architecture": architecture, "NCPU": 8, "Runtimes": {"runc": {}}}
    return json.dumps(about | changes)


def image(
    runner: str, image_id: str = f"sha256:{'ab' * 32}", stand_in: str = "false", base: str = "debian@sha256:0"
) -> str:
    """What `docker image inspect` says of an image."""
    labels = {"dlas.runner": runner, "dlas.base": base, "dlas.stand-in": stand_in}
    about = {"Id": image_id, "Config": {"Labels": labels}, "Os": "linux", "Architecture": "arm64", "Size": 9}
    return json.dumps([about])


ABSENT = "Error response from daemon: No such image: dlas/x:latest"
SSH_FAILED = (
    'error during connect: Get "http://docker.example.com/v1.24/info": command [ssh -T -- hikey docker '
    "system dial-stdio] has exited with exit status 255, make sure the URL is valid, and Docker 18.09 or "
    "later is installed on the remote host: stderr=ssh: connect to host hikey port 22: No route to host\n"
)
