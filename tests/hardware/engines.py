"""Container engines of the tests' own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlas.errors import EngineError
from dlas.hardware.engine import Engine

_START_S = 60
_STOP_S = 15


def lacks_clean_engine() -> str:
    """Why no second engine can be started; empty when one can."""
    if os.geteuid() != 0:
        return "only root starts an engine"
    missing = [name for name in ("dockerd", "containerd", "unshare", "setpriv") if shutil.which(name) is None]
    return f"a second engine needs {', '.join(missing)}" if missing else ""


@contextmanager
def clean_engine(folder: Path, size_mib: int | None = None) -> Iterator[Engine]:
    """A second engine with nothing in it, and with a disk of so many MiB. It cannot reach any network.

    folder: where its data, and its log `dockerd.log`, go; a new or an empty one. Its namespaces end with
    its first process, and so do its processes, mounts and interfaces, however the tests end. Skips where
    none can be started.
    """
    if reason := lacks_clean_engine():
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    data.mkdir()
    # Under pytest's folder a socket's path could be longer than the 107 bytes that it may have.
    with tempfile.TemporaryDirectory(prefix="dlas-") as short, (folder / "dockerd.log").open("wb") as log:
        engine = Engine(f"unix://{short}/docker.sock")
        process = subprocess.Popen(
            _command(data, Path(short), size_mib), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            _await(engine, process, folder / "dockerd.log")
            yield engine
        finally:
            _stop(process)
            shutil.rmtree(data, ignore_errors=True)


def _command(data: Path, short: Path, size_mib: int | None) -> list[str]:
    """In the machine's own network namespace, `--bridge none` would delete the bridge of its engine."""
    (short / "daemon.json").write_text("{}")
    dockerd = [
        "dockerd",
        f"--config-file={short}/daemon.json",
        f"--host=unix://{short}/docker.sock",
        f"--data-root={data}",
        f"--exec-root={short}/exec",
        f"--pidfile={short}/pid",
        "--containerd-namespace=dlas-test",
        "--containerd-plugins-namespace=dlas-test-plugins",
        "--bridge=none",
        "--iptables=false",
    ]
    disk = f"mount -t tmpfs -o size={size_mib}m tmpfs {shlex.quote(str(data))} && " if size_mib else ""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("sh", "-c", f"{disk}exec {shlex.join(dockerd)}"),
    ]


def _await(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            engine.facts()
        except EngineError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the second engine does not start: {log.read_text(errors='replace')[-1000:]}", pytrace=False)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask first, so that it takes its control groups along; then end all that is left in its namespaces."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGTERM)
        process.wait(_STOP_S)
    except (OSError, subprocess.TimeoutExpired):
        pass
    finally:
        process.kill()
        process.wait()
