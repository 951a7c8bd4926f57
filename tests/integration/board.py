"""A board that is this machine: an sshd of the tests' own on the loopback address, for one user and key."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hardware.boards import write_command
from tests.integration.needs import find_command

_START_S = 20
_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
AllowUsers root
PermitRootLogin prohibit-password
AuthenticationMethods publickey
UsePAM no
StrictModes no
PermitTTY no
X11Forwarding no
AllowAgentForwarding no
AllowTcpForwarding no
KexAlgorithms curve25519-sha256
LogLevel VERBOSE
"""
_CLIENT = """
Host {name}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {folder}/client_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  BatchMode yes
  ServerAliveInterval 1
  ServerAliveCountMax 3
"""


@dataclass
class Board:
    """folder: its keys, its configuration and its log, `sshd.log`.

    environment: of what runs there. command: what runs there in place of what it is asked for.
    """

    name: str
    folder: Path
    port: int
    environment: Mapping[str, str]
    command: str = ""
    _sshd: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """As in DOCKER_HOST."""
        return f"ssh://{self.name}"

    @property
    def log(self) -> Path:
        return self.folder / "sshd.log"

    def start(self) -> None:
        """Call it from the main thread: sshd ends with the thread that started it, however that ends."""
        config = self.folder / "sshd_config"
        variables = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        forced = f"ForceCommand {self.command}\n" if self.command else ""
        text = _CONFIG.format(port=self.port, folder=self.folder)
        config.write_text(f"{text}SetEnv {variables}\n{forced}")
        with self.log.open("ab") as log:
            self._sshd = subprocess.Popen(
                [
                    *(_command("setpriv"), "--pdeathsig", "KILL"),
                    *(_command("sshd"), "-D", "-e", "-f", str(config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_S
        while self._sshd.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            time.sleep(0.02)
        self.stop()
        pytest.fail(f"sshd does not start: {self.log.read_text(errors='replace')[-1000:]}", pytrace=False)

    def stop(self) -> None:
        """As when its power goes, but for the containers: at once, and with all that it serves."""
        if self._sshd is None:
            return
        self._freeze()  # else it could serve one more
        while left := _descendants(self._sshd.pid):
            _signal(left, signal.SIGKILL)
            time.sleep(0.01)
        self._sshd.kill()
        self._sshd.wait()
        self._sshd = None

    @contextmanager
    def silent(self) -> Iterator[None]:
        """As while its cable is pulled: what was open stays open, and nothing answers."""
        self._freeze()
        try:
            yield
        finally:
            if self._sshd is not None:
                _signal([*_descendants(self._sshd.pid), self._sshd.pid], signal.SIGCONT)

    def _freeze(self) -> None:
        if self._sshd is not None:
            _signal([self._sshd.pid, *_descendants(self._sshd.pid)], signal.SIGSTOP)


class Neighbourhood:
    """Boards under names that the `ssh` on PATH knows, and so docker. The user's own is left alone."""

    def __init__(self, folder: Path, path: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._hosts = folder / "hosts"
        self._hosts.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "config").write_text(f"Include {self._hosts}/*\n")
        write_command(folder / "bin/ssh", f'exec {_command("ssh")} -F {folder}/config "$@"')
        path.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)

    @contextmanager
    def board(self, name: str, engine: str = "", command: str = "") -> Iterator[Board]:
        """A board that has started. engine: the address of its engine; this machine's else."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))
        environment = {"HOME": str(folder)}  # not the user's: what is in there could print, or take long
        if engine:
            environment["DOCKER_HOST"] = engine
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # sshd wants it, also with a configuration of its own
        for key in ("host_key", "client_key"):
            make = [
                _command("ssh-keygen"),
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                "",
                "-f",
                str(folder / key),
            ]
            subprocess.run(make, check=True)
        board = Board(name, folder, _free_port(), environment, command)
        key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{board.port} {key}")
        host = self._hosts / name
        host.write_text(_CLIENT.format(name=name, port=board.port, folder=folder))
        try:
            board.start()
            yield board
        finally:
            board.stop()
            host.unlink()


def _command(name: str) -> str:
    path = find_command(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(pid: int) -> list[int]:
    """Of a process, as far as they live: not those that only wait to be buried."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        todo += (below := children.get(todo.pop(), []))
        found += below
    return found


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
