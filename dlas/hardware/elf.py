"""What a program or library needs of the system that it runs on, and whether a board has it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlas.errors import BuildError
from dlas.hardware.protocol import one_line
from dlas.values import System

_MACHINES = {"AArch64": "aarch64", "Advanced Micro Devices X86-64": "x86_64"}
_MACHINE = re.compile(r"^ +Machine: +(.+)$", re.MULTILINE)
_LIBRARY = re.compile(r"\(NEEDED\) +Shared library: \[(.+)\]$", re.MULTILINE)
# Of those needed; the lines of versions that a library itself defines begin otherwise.
_VERSION = re.compile(r"^ +0x[0-9a-f]+: +Name: (\w+?)_(\d[\d.]*) ", re.MULTILINE)
_PACKED = re.compile(r"^ +0x[0-9a-f]+: +Name: GLIBC_ABI_DT_RELR ", re.MULTILINE)
_PACKED_SINCE = "2.36"
# What the C and C++ libraries of every system bring. All else has to lie beside the program.
_SYSTEM = re.compile(r"(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)|ld-linux-(aarch64|x86-64))\.so\.\d+")


@dataclass(frozen=True)
class Needs:
    """machine: as a target's arch. libraries: their names. versions: the newest, {"GLIBC": "2.27", ...}."""

    machine: str
    libraries: tuple[str, ...]
    versions: Mapping[str, str]


def needs(path: Path) -> Needs:
    """What readelf (of binutils, which every compiler has) says of a file. Raises BuildError."""
    said = _readelf(path)
    machine = _MACHINE.search(said)
    if machine is None or "ynamic section" not in said:  # it also says when there is none
        raise BuildError(f"readelf does not tell what {path.name} needs", "see that binutils is installed")
    found = _VERSION.findall(said) + [("GLIBC", _PACKED_SINCE) for _ in _PACKED.findall(said)]
    name = machine[1].strip()
    return Needs(_MACHINES.get(name, name), tuple(_LIBRARY.findall(said)), _newest(found))


def needs_together(files: Sequence[Path]) -> Mapping[str, str]:
    """The newest versions that any of these files needs, as in `Needs`. Raises BuildError."""
    return _newest([pair for file in files for pair in needs(file).versions.items()])


def check(files: Sequence[Path], arch: str, system: System) -> None:
    """Raise BuildError when one of these files, shipped together, could not be loaded on a board.

    Each must be for the board's machine, `arch`; need no library but these files and those of C and C++; and
    of the latter no newer version than the board has, as far as `system` says.
    """
    names = {file.name for file in files}
    for file in files:
        found = needs(file)
        if found.machine != arch:
            raise BuildError(f"{file.name} is for {found.machine}, the board is {arch}", "build it again")
        for library in found.libraries:
            if library not in names and not _SYSTEM.fullmatch(library):
                raise BuildError(f"{file.name} needs {library}, which is not shipped", "link it without")
        for name, newest in (("GLIBC", system.glibc), ("GLIBCXX", system.glibcxx)):
            version = found.versions.get(name, "0")
            if newest and _numbers(version) > _numbers(newest):
                raise BuildError(
                    f"{file.name} needs {name}_{version}, {system.release or 'the board'} has {newest}",
                    "link it with an older C library, or correct [system] of the target",
                )


def _readelf(path: Path) -> str:
    command = ["readelf", "--wide", "--file-header", "--dynamic", "--version-info", str(path)]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            env=os.environ | {"LC_ALL": "C"},
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"readelf does not start: {error.strerror}", "install binutils") from error
    if ended.returncode != 0:
        raise BuildError(f"{path.name}: {one_line(ended.stderr)}", "build it again")
    return ended.stdout


def _newest(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for library, version in found:
        versions[library] = max(version, versions.get(library, "0"), key=_numbers)
    return versions


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("2.9") < _numbers("2.31")
    True
    """
    return tuple(map(int, version.split(".")))
