"""The old libraries that boards' programs are compiled against."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from dlas.errors import BuildError
from dlas.hardware import elf, sysroot
from tests.hardware.boards import CXX, OLD_SYSTEM, write_command

PROGRAM = """
#include <cmath>
#include <iostream>
#include <thread>
int main(int count, char**) {
  std::thread([&] { std::cout << std::pow(count, 2.5) << std::endl; }).join();
}
"""


@pytest.fixture(scope="module")
def root(artifacts: Path) -> Path:
    return sysroot.make_sysroot(artifacts, lambda line: None)


@pytest.mark.aarch64
def test_a_sysroot_is_made_once(root: Path, artifacts: Path) -> None:
    said: list[str] = []
    assert sysroot.make_sysroot(artifacts, said.append) == root
    assert root == artifacts / "sysroot" / sysroot.sysroot_key()
    assert said == []
    assert re.search(r"^libc6_2\.31-\S+_arm64$", (root / "packages.txt").read_text(), re.MULTILINE)


@pytest.mark.aarch64
def test_no_link_leads_out_of_it(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_symlink():
            assert root in Path(os.path.normpath(path.parent / path.readlink())).parents
    assert (root / "usr" / "lib" / "aarch64-linux-gnu" / "libm.so").resolve().is_file()


@pytest.mark.aarch64
def test_a_program_has_all_from_the_sysroot(root: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "program.cc", tmp_path / "program"
    source.write_text(PROGRAM)
    flags = [
        *sysroot.compiler_flags(CXX, root),
        "-pthread",
        "-Wl,--trace",
        "-MD",
        "-MF",
        f"{tmp_path}/headers",
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [CXX, *flags, str(source), "-o", str(program)]
    linked = subprocess.check_output(command, text=True, env=environment).splitlines()
    own = Path(subprocess.check_output([CXX, "-print-file-name=include"], text=True).strip())
    headers = (tmp_path / "headers").read_text().partition(":")[2].replace("\\\n", " ").split()
    for file in map(Path, (*linked, *headers)):
        assert {root, own, tmp_path} & set(file.parents), file
    elf.check([program], "aarch64", OLD_SYSTEM)


def test_the_compiler_flags(tmp_path: Path) -> None:
    compiler = write_command(tmp_path / "cxx", '[ "$1" = -print-file-name=include ] && echo /gcc/include')
    assert sysroot.compiler_flags(str(compiler), Path("/s")) == [
        "--sysroot=/s",
        "-nostdinc",
        "-isystem/s/usr/include/c++/10",
        "-isystem/s/usr/include/aarch64-linux-gnu/c++/10",
        "-isystem/s/usr/include/c++/10/backward",
        "-isystem/gcc/include",
        "-isystem/s/usr/include/aarch64-linux-gnu",
        "-isystem/s/usr/include",
        "-B/s/usr/lib/gcc/aarch64-linux-gnu/10",
        "-B/s/usr/lib/aarch64-linux-gnu",
        "-B/s/lib/aarch64-linux-gnu",
    ]


def test_a_compiler_that_is_not_there_is_named() -> None:
    with pytest.raises(BuildError, match=r"no-such-cxx does not tell .*; install no-such-cxx"):
        sysroot.compiler_flags("no-such-cxx", Path("/s"))
