"""What programs for the boards are compiled against: the C and C++ libraries of a system as old as theirs.

A program needs a C library at least as new as the one that it was linked with. Debian bullseye has glibc
2.31 and the libstdc++ of GCC 10 (GLIBCXX_3.4.28), as has the oldest board that we know: L4T r35 is Ubuntu
20.04. A cross compiler brings those of the system that it was made for, which are newer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from dlas.cache import atomic_folder, source_digest
from dlas.errors import BuildError
from dlas.hardware import debian
from dlas.hardware.engine import Log

ARCH = "aarch64"
_SUITE = "bullseye"
_GCC = "10"
_PACKAGES = (
    "libc6",
    "libc6-dev",
    "libgcc-s1",
    f"libgcc-{_GCC}-dev",
    "libstdc++6",
    f"libstdc++-{_GCC}-dev",
    "linux-libc-dev",
)
_TRIPLET = "aarch64-linux-gnu"
_MULTIARCH = f"usr/include/{_TRIPLET}"
_HEADERS = (f"usr/include/c++/{_GCC}", f"{_MULTIARCH}/c++/{_GCC}", f"usr/include/c++/{_GCC}/backward")
_C_HEADERS = (_MULTIARCH, "usr/include")
_OBJECTS = (f"usr/lib/gcc/{_TRIPLET}/{_GCC}", f"usr/lib/{_TRIPLET}", f"lib/{_TRIPLET}")


def sysroot_key() -> str:
    """Hash of all that the sysroot is made by, and of how it is compiled against."""
    return source_digest([Path(__file__)])[:16]


def make_sysroot(artifacts: Path, say: Log) -> Path:
    """The sysroot in artifacts/sysroot/<key>, made if it is not there yet: 60 MB.

    Raises BuildError when its packages cannot be fetched, StorageError when it cannot be written.
    """
    folder = artifacts / "sysroot" / sysroot_key()
    if not folder.exists():
        with atomic_folder(folder) as made:
            packages = debian.unpack(_SUITE, "arm64", _PACKAGES, made, say)
            shutil.rmtree(made / "usr" / "share")  # documents
            _make_links_relative(made)
            (made / "packages.txt").write_text("".join(f"{package}\n" for package in packages))
    return folder


def compiler_flags(cxx: str, sysroot: Path) -> list[str]:
    """What makes a GCC for aarch64 take headers, start files and libraries from the sysroot, and no others.

    --sysroot alone would not: the cross compiler's own C library comes before it. GCC's own headers, such as
    stddef.h, stay. Raises BuildError.
    """
    own = _own_headers(cxx)
    headers = (*(sysroot / name for name in _HEADERS), own, *(sysroot / name for name in _C_HEADERS))
    return [
        f"--sysroot={sysroot}",
        "-nostdinc",
        *(f"-isystem{header}" for header in headers),
        *(f"-B{sysroot / name}" for name in _OBJECTS),
    ]


def _own_headers(cxx: str) -> Path:
    try:
        said = subprocess.check_output([cxx, "-print-file-name=include"], text=True, errors="replace")
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{cxx} does not tell where its headers are: {error}", f"install {cxx}") from error
    return Path(said.strip())


def _make_links_relative(folder: Path) -> None:
    """Links from / would lead into this machine's own libraries."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.readlink().is_absolute():
            target = folder / path.readlink().relative_to("/")
            path.unlink()
            path.symlink_to(os.path.relpath(target, path.parent))
