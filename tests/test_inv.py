"""`inv` with a pretended Python and pip, so that every way through it is quick."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = (
    "bash",
    "cat",
    "chmod",
    "env",
    "flock",
    "grep",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sha256sum",
    "sleep",
    "tail",
)

# Says what it was asked on `calls`; fails on the requirement file named in FAIL; waits while WAIT exists.
PIP = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
while [[ -e $WAIT ]]; do sleep 0.02; done
[[ $* != *"${FAIL:-no such file}"* ]] || { echo "ERROR: No matching distribution found for torch"; exit 1; }
"""
INVOKE = """#!/usr/bin/env bash
printf '<%s>' "$@"
"""
PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
    [[ -z ${{VENV_FAILS:-}} ]] || exit 1
    rm -rf "$4"; mkdir -p "$4/bin"
    echo "version = ${{VERSION:-3.11.2}}" >"$4/pyvenv.cfg"
    cat >"$4/bin/python" <<'END'
{PIP}END
    cat >"$4/bin/inv" <<'END'
{INVOKE}END
    chmod +x "$4/bin/python" "$4/bin/inv" ;;
"-c import venv, ensurepip") exit "${{NO_VENV:-0}}" ;;
-c*) exit "${{TOO_OLD:-0}}" ;;
-V*) echo "Python ${{VERSION:-3.11.2}}" ;;
esac
"""


class Checkout:
    """A copy of what `inv` reads, and a PATH with nothing on it but the tools it calls."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.path = folder / "bin"
        self.calls = folder / "calls"
        self.wait = folder / "wait"
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        shutil.copy(ROOT / "inv", self.root)
        self.path.mkdir()
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
        self.python = self.path / "python3"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        variables = {"PATH": str(self.path), "CALLS": str(self.calls), "WAIT": str(self.wait), **environment}
        return subprocess.Popen(
            [str(self.root / "inv"), *arguments],
            env=variables,
            cwd="/",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # A shell starts what it runs in the background with Ctrl-C ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def inv(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def installs(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def wait_for(self, installs: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.installs()) < installs:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_first_use_installs_torch_first_and_alone_and_the_next_use_nothing(checkout: Checkout) -> None:
    code, out, err = checkout.inv("run", "--sweep", "two words")
    assert (code, out) == (0, f"<--search-root><{checkout.root}><run><--sweep><two words>")
    assert "first use" in err
    first, second, third = checkout.installs()
    assert first.endswith("torch.txt")
    assert "run.txt" in second
    assert "dev.txt" in second
    assert third.endswith(f"-e {checkout.root}")

    assert checkout.inv() == (0, f"<--search-root><{checkout.root}><--list>", "")
    assert len(checkout.installs()) == 3


@pytest.mark.parametrize("change", ["pins", "place", "python"])
def test_what_a_venv_was_made_from_changed(checkout: Checkout, change: str) -> None:
    checkout.inv()
    if change == "pins":
        (checkout.root / "requirements" / "run.txt").write_text("numpy==0.1\n")
    elif change == "place":
        checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    else:
        (checkout.root / ".venv" / "bin" / "python").unlink()
    code, out, err = checkout.inv()
    assert (code, out) == (0, f"<--search-root><{checkout.root}><--list>")
    assert "making .venv anew" in err
    assert len(checkout.installs()) == 6


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_in_the_middle_it_starts_over(checkout: Checkout, how: signal.Signals) -> None:
    checkout.wait.touch()
    process = checkout.start("run")
    checkout.wait_for(installs=1)
    os.killpg(process.pid, how)
    out, err = process.communicate(timeout=60)
    assert out == ""
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert err.endswith("inv: interrupted; the same command starts over\n")
    checkout.wait.unlink()

    code, out, _ = checkout.inv("run")
    assert (code, out) == (0, f"<--search-root><{checkout.root}><run>")
    assert len(checkout.installs()) == 4


def test_a_venv_half_cleared_is_not_used_again(checkout: Checkout) -> None:
    checkout.inv()
    pins = checkout.root / "requirements" / "run.txt"
    before = pins.read_text()
    pins.write_text("numpy==0.1\n")
    assert checkout.inv(VENV_FAILS="1")[0] == 3
    pins.write_text(before)
    assert checkout.inv()[0] == 0
    assert len(checkout.installs()) == 6


def test_two_at_once_make_one_venv(checkout: Checkout) -> None:
    checkout.wait.touch()
    first = checkout.start("first")
    checkout.wait_for(installs=1)
    second = checkout.start("second")
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    checkout.wait.unlink()
    assert first.communicate(timeout=60)[0].endswith("<first>")
    assert second.communicate(timeout=60)[0].endswith("<second>")
    assert len(checkout.installs()) == 3


def test_a_failed_install_says_what_and_what_next(checkout: Checkout) -> None:
    code, out, err = checkout.inv(FAIL="torch.txt")
    assert (code, out) == (3, "")
    assert "No matching distribution found for torch" in err.splitlines()[-1]
    assert "check the network" in err.splitlines()[-1]
    assert not (checkout.root / ".venv" / "stamp").exists()
    assert checkout.inv()[0] == 0


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"TOO_OLD": "1", "VERSION": "3.9.2"}, "is needed, found: Python 3.9.2; install python3.11"),
        ({"NO_VENV": "1"}, "cannot make a virtual environment; apt-get install python3-venv"),
    ],
)
def test_a_machine_that_lacks_something_is_told_in_one_line(
    checkout: Checkout, lacks: dict[str, str], says: str
) -> None:
    code, out, err = checkout.inv(**lacks)
    assert (code, out) == (3, "")
    assert says in err
    assert err.count("\n") == 1
    assert not checkout.installs()


def test_no_python_at_all(checkout: Checkout) -> None:
    checkout.python.unlink()
    code, _, err = checkout.inv()
    assert code == 3
    assert "found: none" in err
