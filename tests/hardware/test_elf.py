"""What programs need: real ones, and what readelf could say of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dlas.errors import BuildError
from dlas.hardware import elf
from dlas.hardware.runner import Runner
from dlas.values import System
from tests.hardware.boards import CXX, OLD_SYSTEM, write_command

SAID = """\
ELF Header:
  Machine:                           AArch64
Dynamic section at offset 0x1fd80 contains 30 entries:
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000e (SONAME)             Library soname: [libthing.so]
Version definition section '.gnu.version_d' contains 2 entries:
  000000: Rev: 1  Flags: BASE  Index: 1  Cnt: 1  Name: libthing.so
  0x001c: Rev: 1  Flags: none  Index: 2  Cnt: 1  Name: GLIBC_9.99
Version needs section '.gnu.version_r' contains 1 entry:
 Addr: 0x0000000000000c90  Offset: 0x00c90  Link: 4 (.dynstr)
  000000: Version: 1  File: libc.so.6  Cnt: 5
  0x0010:   Name: GLIBC_2.4  Flags: none  Version: 7
  0x0020:   Name: GLIBC_2.17  Flags: none  Version: 6
  0x0030:   Name: GLIBC_PRIVATE  Flags: none  Version: 5
  0x0040:   Name: GLIBCXX_3.4.9  Flags: none  Version: 4
  0x0050:   Name: GLIBCXX_3.4.21  Flags: none  Version: 3
"""
PACKED = "  0x0060:   Name: GLIBC_ABI_DT_RELR  Flags: none  Version: 2\n"


def says(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let readelf say this of every file."""
    (folder / "said").write_text(text)
    write_command(folder / "readelf", f"cat '{folder}/said'")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "thing"


def link(cxx: str, output: Path, *arguments: str, source: str = "int main() {}") -> Path:
    command = [cxx, "-x", "c++", "-", "-x", "none", "-o", str(output), *arguments]
    subprocess.run(command, input=source.encode(), check=True)
    return output


def test_the_needs_of_the_runner(program: Runner) -> None:
    found = elf.needs(program.binary)
    assert found.machine == "x86_64"
    assert set(found.libraries) >= {"libtvm_runtime.so", "libtvm_ffi.so", "libstdc++.so.6", "libc.so.6"}
    assert {"GLIBC", "GLIBCXX", "CXXABI"} <= set(found.versions)
    elf.check(list(program.folder.iterdir()), "x86_64", System())


def test_the_newest_version_counts_and_only_of_those_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = elf.needs(says(tmp_path, SAID, monkeypatch))
    assert found == elf.Needs("aarch64", ("libc.so.6",), {"GLIBC": "2.17", "GLIBCXX": "3.4.21"})


def test_packed_relocations_need_the_version_that_brought_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert elf.needs(says(tmp_path, SAID + PACKED, monkeypatch)).versions["GLIBC"] == "2.36"


@pytest.mark.parametrize(
    ("arch", "system", "message"),
    [
        ("aarch64", System(), ""),
        ("aarch64", System(glibc="2.17", glibcxx="3.4.21"), ""),
        ("aarch64", System(glibc="2.100"), ""),
        (
            "aarch64",
            System(glibc="2.16"),
            "thing needs GLIBC_2.17, the board has 2.16; link it with an older",
        ),
        (
            "aarch64",
            System("Debian 7", glibc="2.31", glibcxx="3.4.17"),
            "needs GLIBCXX_3.4.21, Debian 7 has 3.4.17",
        ),
        ("x86_64", System(), "thing is for aarch64, the board is x86_64"),
    ],
)
def test_what_a_board_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, system: System, message: str
) -> None:
    thing = says(tmp_path, SAID, monkeypatch)
    if not message:
        return elf.check([thing], arch, system)
    with pytest.raises(BuildError, match=message):
        elf.check([thing], arch, system)


@pytest.mark.parametrize(
    "text", ["", SAID.replace("Dynamic section", "A section"), SAID.replace("Machine", "Maschine")]
)
def test_a_readelf_that_does_not_tell_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with pytest.raises(BuildError, match="readelf does not tell what thing needs"):
        elf.needs(says(tmp_path, text, monkeypatch))


def test_a_machine_without_readelf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"readelf does not start: No such file .*; install binutils"):
        elf.needs(tmp_path)


def test_what_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is a text, and no program at all, though it is long enough for one.")
    with pytest.raises(BuildError, match="text"):
        elf.needs(tmp_path / "text")


def test_a_library_that_is_not_shipped_is_named(tmp_path: Path) -> None:
    name = "libcudart.so.13"
    library = link("g++", tmp_path / name, "-shared", f"-Wl,-soname,{name}", source="void f() {}")
    user = link("g++", tmp_path / "user", "-Wl,--no-as-needed", str(library))
    elf.check([user, library], "x86_64", System())
    with pytest.raises(BuildError, match=r"user needs libcudart\.so\.13, which is not shipped"):
        elf.check([user], "x86_64", System())


@pytest.mark.aarch64
def test_a_program_for_a_newer_system_is_refused(tmp_path: Path) -> None:
    """The cross compiler of Debian 12 links with the glibc of Debian 12."""
    program = link(CXX, tmp_path / "program")
    with pytest.raises(
        BuildError, match=r"program needs GLIBC_2\.\d+, an old system has 2\.31; link it with"
    ):
        elf.check([program], "aarch64", OLD_SYSTEM)
