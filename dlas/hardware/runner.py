"""The runner: the C++ program of runtime/, compiled once for each compiler and TVM, kept by its hash."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlas.cache import atomic_folder, digest, hash_files, source_digest
from dlas.errors import BuildError
from dlas.hardware import elf, sysroot, wheels
from dlas.hardware.engine import Log
from dlas.values import Compiler, Target

KERNELS = "kernels"
_SOURCES = Path(__file__).parent / "runtime"
_FLAGS = ("-std=c++17", "-O2", "-s", "-Wall", "-Wextra", "-pthread")
_LINK = (
    "-Wl,-z,defs",
    "-Wl,-rpath,$ORIGIN",
    "-Wl,--no-as-needed",  # TVM's functions are looked up by name: the linker sees no use of its library
    "-ltvm_runtime",
    "-ltvm_ffi",
    "-ldl",  # a part of the C library since glibc 2.34
)


@dataclass(frozen=True)
class Runner:
    """A folder with the program `runner` and the libraries that it needs, a GPU's back end among them.

    For OpenCL it also has the folder `KERNELS`, where a container keeps what its device has compiled.
    """

    folder: Path
    key: str

    @property
    def binary(self) -> Path:
        return self.folder / "runner"


def runner_key(target: Target) -> str:
    """Hash of all that makes the runner: sources, compiler, flags, TVM's libraries. Raises BuildError.

    Libraries for another machine than this one count by their versions: the key asks for no download.
    """
    libraries = [hash_files(wheels.libraries())] if _is_native(target) else [sysroot.sysroot_key()]
    parts = [
        target.compiler.arch,
        target.processor,
        *_FLAGS,
        *_LINK,
        source_digest([_SOURCES]),
        *wheels.versions(),
        *libraries,
    ]
    return digest(_compiler_version(target), *parts)[:16]


def interface_key(target: Target) -> str:
    """Hash of what a host must know of a runner: its sources and TVM's versions, whatever compiled it.

    An image that was built elsewhere, by another compiler, has the same. Raises BuildError.
    """
    return digest(target.compiler.arch, target.processor, source_digest([_SOURCES]), *wheels.versions())[:16]


def build_runner(target: Target, artifacts: Path, say: Log = lambda line: None) -> Runner:
    """The runner for a target in artifacts/runner/<key>, compiled if it is not there yet.

    For another machine than this one it is compiled against an old system's libraries; these and TVM's are
    fetched once, which `say` is told. Raises BuildError without a working compiler, TVM or what is fetched,
    and when the target's system lacks what the runner needs; StorageError when it cannot be written.
    """
    key = runner_key(target)
    folder = artifacts / "runner" / key
    if not folder.exists():
        with atomic_folder(folder) as made:
            _build_into(made, target, artifacts, say)
    # Each time: targets that share a runner need not have the same system.
    elf.check(
        sorted(path for path in folder.iterdir() if path.is_file()), target.compiler.arch, target.system
    )
    return Runner(folder, key)


def compile_command(
    cxx: str, include: Path, libraries: Path, output: Path, flags: Sequence[str] = ()
) -> list[str]:
    """The compiler's command line. The program finds its libraries beside itself."""
    source = str(_SOURCES / "runner.cc")
    link = (f"-L{libraries}", *_LINK)
    return [cxx, *_FLAGS, *flags, "-isystem", str(include), source, "-o", str(output), *link]


def back_end_command(
    compiler: Compiler, include: Sequence[Path], libraries: Path, output: Path, flags: Sequence[str] = ()
) -> list[str]:
    """The command line for the back end of a GPU, libdlas_<kind>.so."""
    sources = _SOURCES / "gpu"
    headers = [flag for path in (*include, sources / "shim") for flag in ("-isystem", str(path))]
    link = (f"-L{libraries}", "-shared", "-fPIC", "-fvisibility=hidden", *_LINK)
    return [
        compiler.cxx,
        *_FLAGS,
        *flags,
        *headers,
        str(sources / f"{compiler.kind}.cc"),
        "-o",
        str(output),
        *link,
    ]


def _build_into(folder: Path, target: Target, artifacts: Path, say: Log) -> None:
    cxx = target.compiler.cxx
    if _is_native(target):
        libraries, flags = wheels.libraries(), []
    else:
        libraries = wheels.foreign_libraries(target.compiler.arch, artifacts, say)
        flags = sysroot.compiler_flags(cxx, sysroot.make_sysroot(artifacts, say))
    for library in libraries:
        shutil.copyfile(library, folder / library.name)
    _compile(compile_command(cxx, wheels.include(), folder, folder / "runner", flags))
    if target.processor != "cpu":
        library = folder / f"libdlas_{target.processor}.so"
        _compile(back_end_command(target.compiler, wheels.includes(), folder, library, flags))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)  # a container's user must be able to read them
    if target.compiles_kernels:
        kernels = folder / KERNELS
        kernels.mkdir()
        kernels.chmod(0o1777)  # what it can write is the volume that an engine makes of this folder


def _is_native(target: Target) -> bool:
    """Whether it is for this kind of machine. Raises BuildError when it is for none that we can serve."""
    arch = target.compiler.arch
    if arch not in (platform.machine(), sysroot.ARCH):
        raise BuildError(
            f"{target.name}: its runner is for {arch}, and this machine, {platform.machine()}, compiles none",
            f"build it on a machine of its own kind, or choose a target for {sysroot.ARCH}",
        )
    return arch == platform.machine()


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
