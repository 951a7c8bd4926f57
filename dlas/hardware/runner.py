"""The runner: the C++ program of runtime/, compiled once for each compiler and TVM, kept by its hash."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlas.cache import atomic_folder, digest, hash_files, source_digest
from dlas.errors import BuildError
from dlas.values import Target

_SOURCES = Path(__file__).parent / "runtime"
_FLAGS = ("-std=c++17", "-O2", "-s", "-Wall", "-Wextra", "-pthread")
_LINK = (
    "-Wl,-z,defs",
    "-Wl,-rpath,$ORIGIN",
    "-Wl,--no-as-needed",  # TVM's functions are looked up by name: the linker sees no use of its library
    "-ltvm_runtime",
    "-ltvm_ffi",
)
_WHEELS = (("tvm", "apache-tvm", "libtvm_runtime.so"), ("tvm_ffi", "apache-tvm-ffi", "libtvm_ffi.so"))


@dataclass(frozen=True)
class Runner:
    """A folder with the program `runner` and the two libraries that it needs, and nothing else."""

    folder: Path
    key: str

    @property
    def binary(self) -> Path:
        return self.folder / "runner"


def runner_key(target: Target) -> str:
    """Hash of all that makes the runner: sources, compiler, flags, TVM's libraries. Raises BuildError."""
    libraries = hash_files(_libraries())
    versions = [importlib.metadata.version(wheel) for _, wheel, _ in _WHEELS]  # for the headers
    sources = source_digest([_SOURCES])
    return digest(_compiler_version(target), *_FLAGS, *_LINK, sources, *versions, libraries)[:16]


def build_runner(target: Target, artifacts: Path) -> Runner:
    """The runner for this machine in artifacts/runner/<key>, compiled if it is not there yet.

    Raises BuildError without a working compiler or TVM, StorageError when it cannot be written.
    """
    if target.compiler.arch != platform.machine():
        raise BuildError(
            f"{target.name}: its runner is for {target.compiler.arch}, this machine is {platform.machine()}",
            "choose a target of this machine",
        )
    key = runner_key(target)
    folder = artifacts / "runner" / key
    if not folder.exists():
        with atomic_folder(folder) as made:
            _build_into(made, target.compiler.cxx)
    return Runner(folder, key)


def compile_command(cxx: str, include: Path, libraries: Path, output: Path) -> list[str]:
    """The compiler's command line. The program finds its libraries beside itself."""
    source = str(_SOURCES / "runner.cc")
    return [cxx, *_FLAGS, "-isystem", str(include), source, "-o", str(output), f"-L{libraries}", *_LINK]


def _build_into(folder: Path, cxx: str) -> None:
    for library in _libraries():
        shutil.copyfile(library, folder / library.name)
    include = _package_folder("tvm_ffi", "apache-tvm-ffi") / "include"
    _compile(compile_command(cxx, include, folder, folder / "runner"))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)  # a container's user must be able to read them


def _compile(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        lines = result.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        error = BuildError(f"the runner does not compile: {first}", f"check {command[0]} and its C++ library")
        error.add_note(result.stderr)
        raise error


def _compiler_version(target: Target) -> str:
    cxx = target.compiler.cxx
    try:
        output = subprocess.check_output([cxx, "--version"], text=True, errors="replace")
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{target.name}: {cxx} does not run: {error}", f"install {cxx}") from error
    return output.partition("\n")[0]


def _libraries() -> list[Path]:
    return [_package_folder(package, wheel) / "lib" / library for package, wheel, library in _WHEELS]


def _package_folder(package: str, wheel: str) -> Path:
    """Where a wheel is installed, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(f"{wheel} is not installed in this Python", "run ./inv once; it makes .venv")
    return Path(spec.submodule_search_locations[0])
