"""The contents of Debian packages, fetched and verified by apt: neither root nor a chroot, and no emulator.

No script of a package runs, and what a package depends on is not followed: who wants a C library asks for
it, and gets that alone. debootstrap would make a whole system, as root and under emulation, in minutes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from dlas.errors import BuildError
from dlas.hardware.engine import Log
from dlas.hardware.protocol import one_line

# Signs every release. From Debian's package debian-archive-keyring, which other distributions have too.
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_FROM_DEBIAN = ("Origin: Debian", "Label: Debian", "Component: main")
_SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Architectures: {arch}
Targets: Packages
Languages: none
"""
# This machine's own configuration comes before it, with its proxies; its hooks are for its own packages.
_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update;
#clear APT::Default-Release;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::Retries "2";
Dir::Cache "{folder}/cache";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{folder}/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "/dev/null";
"""


def unpack(suite: str, arch: str, packages: Sequence[str], folder: Path, say: Log) -> tuple[str, ...]:
    """Unpack these Debian packages into a folder, in the order of their names, the newest of the suite.

    suite: a release's name, such as bullseye. arch: amd64 or arm64, as Debian says it. Returns name, version
    and architecture of each, as its file is called. Raises BuildError, also where a signature is missing.
    """
    with tempfile.TemporaryDirectory(prefix="dlas-apt-") as name:
        work = Path(name)
        _configure(work, suite, arch, mirror())
        say(f"fetching {len(packages)} packages of Debian {suite} for {arch}")
        for command in (["update"], ["download", *packages]):
            _run(
                ["apt-get", f"--config-file={work}/apt.conf", "--quiet", *command],
                f"Debian {suite} for {arch} cannot be fetched",
                "see that `apt-get update` works here, and that its mirror still has this release",
                folder=work / "packages",
            )
        files = sorted((work / "packages").glob("*.deb"))
        for file in files:
            _run(["dpkg-deb", "--extract", str(file), str(folder)], f"{file.name} is damaged", "try again")
        return tuple(unquote(file.stem) for file in files)


def mirror() -> str:
    """The address of the Debian mirror that this machine's apt uses. Raises BuildError when it has none."""
    command = ["apt-get", "indextargets", "--format=$(REPO_URI)", *_FROM_DEBIAN]
    found = _run(command, "apt does not say which mirrors it has", "run apt-get update").split()
    if not found:
        raise BuildError(
            "apt knows no Debian mirror",
            "run apt-get update; where this is no Debian, add one to its sources",
        )
    return found[0]


def _configure(folder: Path, suite: str, arch: str, mirror: str) -> None:
    """Write what makes apt leave this machine's packages alone, and take those of one release."""
    for name in ("cache/archives/partial", "state/lists/partial", "packages"):
        (folder / name).mkdir(parents=True)
    sources = _SOURCES.format(mirror=mirror, suite=suite, arch=arch)
    if _KEYRING.exists():  # else apt takes the keys that it trusts in general
        sources += f"Signed-By: {_KEYRING}\n"
    (folder / "debian.sources").write_text(sources)
    (folder / "apt.conf").write_text(_CONFIGURATION.format(folder=folder, arch=arch))


def _run(command: Sequence[str], failure: str, next_step: str, folder: Path | None = None) -> str:
    """What a command says. Raises BuildError with the first thing that it names an error."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=folder,
            env=environment,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(
            f"{failure}: {command[0]} does not start: {error.strerror}",
            "do it on Debian or a system made of it, or copy artifacts from one",
        ) from error
    if ended.returncode != 0:
        lines = ended.stderr.splitlines() or ["it said nothing"]
        reason = next((line for line in lines if line.startswith("E: ")), lines[-1])
        raise BuildError(f"{failure}: {one_line(reason.removeprefix('E: '))}", next_step)
    return ended.stdout
