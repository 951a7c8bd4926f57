"""TVM's libraries and headers: of the installed wheels for this machine, fetched by pip for another."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dlas.cache import atomic_folder, digest
from dlas.errors import BuildError
from dlas.hardware.engine import Log
from dlas.hardware.protocol import one_line


@dataclass(frozen=True)
class Wheel:
    """One wheel, the package in it, and the one library of it that a runner needs, if any."""

    name: str
    package: str
    library: str


_RUNTIME = Wheel("apache-tvm", "tvm", "libtvm_runtime.so")
_FFI = Wheel("apache-tvm-ffi", "tvm_ffi", "libtvm_ffi.so")
_WHEELS = (_RUNTIME, _FFI)
_HEADERS = Wheel("nvidia-cuda-runtime-cu11", "nvidia.cuda_runtime", "")  # among them are Khronos's of OpenCL
# Wheels say for which C library they are: any that a board with glibc 2.31 can load will do.
_OLDEST, _NEWEST = 17, 31


def versions() -> list[str]:
    """As pip takes them: apache-tvm==0.27.0 and so on. Raises BuildError when they are not installed."""
    try:
        return [f"{wheel.name}=={importlib.metadata.version(wheel.name)}" for wheel in _WHEELS]
    except importlib.metadata.PackageNotFoundError as error:
        raise _not_installed(error.name or "TVM") from error


def include() -> Path:
    """The folder of the headers, which are the same for every machine. Raises BuildError."""
    return _folder(_FFI) / "include"


def includes() -> list[Path]:
    """The folders of the headers that a back end of a GPU needs: TVM's, and OpenCL's. Raises BuildError.

    The latter are in a wheel that there is for x86-64 alone; elsewhere they are those of the system, if any.
    """
    with_opencl = (_HEADERS,) if platform.machine() == "x86_64" else ()
    return [_folder(wheel) / "include" for wheel in (*_WHEELS, *with_opencl)]


def libraries() -> list[Path]:
    """Those for this machine. Raises BuildError."""
    return [_folder(wheel) / "lib" / wheel.library for wheel in _WHEELS]


def foreign_libraries(arch: str, artifacts: Path, say: Log) -> list[Path]:
    """Those of the same versions for another machine, in artifacts/wheels/<key>, fetched if not there yet.

    arch: as in a target, aarch64. Raises BuildError when pip cannot have them, StorageError.
    """
    folder = artifacts / "wheels" / digest(arch, *versions())[:16]
    if not folder.exists():
        with atomic_folder(folder) as made, tempfile.TemporaryDirectory(prefix="dlas-wheels-") as name:
            say(f"fetching {' and '.join(versions())} for {arch} (100 MB, of which 5 are kept)")
            _run_pip(download_command(arch, Path(name)), arch)
            for wheel in _WHEELS:
                _extract(wheel, Path(name), made)
    return [folder / wheel.library for wheel in _WHEELS]


def download_command(arch: str, folder: Path) -> list[str]:
    """The command line of pip; it asks the index that the user's pip is configured for."""
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(_NEWEST, _OLDEST - 1, -1)]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--only-binary=:all:"),
        *(f"--platform={platform}" for platform in (*platforms, f"manylinux2014_{arch}")),
        f"--dest={folder}",
        *versions(),
    ]


def _run_pip(command: list[str], arch: str) -> None:
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if ended.returncode != 0:
        lines = ended.stderr.splitlines() or ["it said nothing"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        error = BuildError(
            f"pip cannot fetch {' and '.join(versions())} for {arch}: {one_line(reason)}",
            "see that pip reaches its index here; later builds need it no more",
        )
        error.add_note(ended.stderr)
        raise error


def _extract(wheel: Wheel, downloads: Path, folder: Path) -> None:
    """Take the one library out of a wheel."""
    member = f"{wheel.package}/lib/{wheel.library}"
    prefix = wheel.name.replace("-", "_")
    try:
        (path,) = downloads.glob(f"{prefix}-*.whl")
        with zipfile.ZipFile(path) as archive:
            (folder / wheel.library).write_bytes(archive.read(member))
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BuildError(
            f"the wheel that pip fetched of {wheel.name} has no {member}", "report it, with TVM's version"
        ) from error


def _folder(wheel: Wheel) -> Path:
    """Where a wheel is installed, found without importing it."""
    try:
        spec = importlib.util.find_spec(wheel.package)
    except ModuleNotFoundError:  # of the package above it
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise _not_installed(wheel.name)
    return Path(spec.submodule_search_locations[0])


def _not_installed(name: str) -> BuildError:
    return BuildError(f"{name} is not installed in this Python", "run ./inv once; it makes .venv")
