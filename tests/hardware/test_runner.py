"""The C++ runner itself: built once, spoken to as the host would, and as the host never should."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlas.errors import BuildError, DeviceError
from dlas.hardware import elf, sysroot, wheels
from dlas.hardware.device import LocalDevice
from dlas.hardware.protocol import encode_job
from dlas.hardware.runner import Runner, back_end_command, build_runner, compile_command, runner_key
from dlas.values import Job, System, Target
from tests.hardware.boards import BOARD


def said(program: Runner, stdin: bytes, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON line of a runner; there must be nothing else on its stdout."""
    ended = subprocess.run([program.binary, *arguments], input=stdin, capture_output=True, timeout=30)
    line, _, raw = ended.stdout.partition(b"\n")
    assert raw == b""
    return ended.returncode, json.loads(line)


def run_tar(program: Runner, folder: Path, archive: bytes) -> tuple[int, dict[str, Any]]:
    return said(program, archive, "serve", "--dir", str(folder), "--timeout-s", "10")


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, contents: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(contents), kind, link
    return info, contents


def tar(*members: Member, tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """Any archive that Python can write."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as archive:
        for info, contents in members:
            archive.addfile(info, io.BytesIO(contents))
    return out.getvalue()


JOB = {
    "protocol": "4",
    "device": "cpu",
    "gpu": "",
    "timer": "wall",
    "kernels": "",
    "dtype": "float32",
    "inputs": "1",
    "shape": "2",
    "output_bytes": "8",
    "warmups": "1",
    "repeats": "1",
    "flush_bytes": "0",
    "threads": "1",
    "cpus": "",
}


def job_text(**changed: str) -> bytes:
    return "".join(f"{key}={value}\n" for key, value in (JOB | changed).items()).encode()


def test_a_runner_is_built_once_and_found_by_its_hash(host: Target, program: Runner, artifacts: Path) -> None:
    before = program.binary.stat().st_mtime_ns
    assert build_runner(host, artifacts) == program
    assert program.binary.stat().st_mtime_ns == before
    assert sorted(os.listdir(program.folder)) == ["libtvm_ffi.so", "libtvm_runtime.so", "runner"]
    assert program.folder == artifacts / "runner" / runner_key(host)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in program.folder.iterdir())


def test_the_runner_needs_only_what_lies_beside_it(program: Runner) -> None:
    dynamic = subprocess.check_output(["readelf", "-d", program.binary], text=True)
    assert "[$ORIGIN]" in dynamic
    assert "[libtvm_runtime.so]" in dynamic  # though nothing in the program names a symbol of it


def test_another_compiler_makes_another_key(host: Target, tmp_path: Path) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text("#!/bin/sh\necho another compiler 1.0\n")
    compiler.chmod(0o755)
    other = replace(host, compiler=replace(host.compiler, cxx=str(compiler)))
    assert runner_key(other) != runner_key(host)


def test_a_failed_build_says_why_and_leaves_nothing(host: Target, tmp_path: Path) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit\necho 'x.cc:1: error: no luck' >&2\nexit 1\n")
    compiler.chmod(0o755)
    broken = replace(host, compiler=replace(host.compiler, cxx=str(compiler)))
    with pytest.raises(BuildError, match="no luck"):
        build_runner(broken, tmp_path / "artifacts")
    assert list((tmp_path / "artifacts" / "runner").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"cxx": "no-such-compiler"}, "no-such-compiler does not run"), ({"arch": "riscv64"}, "is for riscv64")],
)
def test_what_cannot_be_built_is_named(host: Target, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build_runner(replace(host, compiler=replace(host.compiler, **change)), tmp_path)


def test_the_compiler_command(tmp_path: Path) -> None:
    command = compile_command("g++", Path("include"), Path("lib"), Path("out/runner"))
    assert command[0] == "g++"
    assert command[command.index("-o") + 1] == "out/runner"
    assert [part for part in command if part.startswith(("-L", "-l", "-Wl"))] == [
        "-Llib",
        "-Wl,-z,defs",
        "-Wl,-rpath,$ORIGIN",
        "-Wl,--no-as-needed",
        "-ltvm_runtime",
        "-ltvm_ffi",
        "-ldl",
    ]


def test_the_command_for_a_back_end() -> None:
    compiler = replace(BOARD.compiler, kind="opencl")
    command = back_end_command(compiler, [Path("a"), Path("b")], Path("lib"), Path("out.so"), ["--sysroot=s"])
    assert command[0] == "aarch64-linux-gnu-g++"
    assert command[command.index("-o") - 1].endswith("runtime/gpu/opencl.cc")
    assert command[command.index("-o") + 1] == "out.so"
    assert {"-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,defs", "-ldl", "--sysroot=s"} < set(command)
    headers = [command[i + 1] for i, part in enumerate(command) if part == "-isystem"]
    assert headers[:2] == ["a", "b"]
    assert headers[2].endswith("runtime/gpu/shim")


def test_the_sysroot_comes_before_other_headers() -> None:
    command = compile_command(
        "g++", Path("include"), Path("lib"), Path("runner"), ["--sysroot=s", "-isystems"]
    )
    assert command.index("-isystems") < command.index("-isystem")


@pytest.mark.aarch64
def test_the_runner_of_a_board_is_made_of_old_libraries(artifacts: Path) -> None:
    made = build_runner(BOARD, artifacts)
    assert sorted(os.listdir(made.folder)) == ["libtvm_ffi.so", "libtvm_runtime.so", "runner"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in made.folder.iterdir())
    for path in made.folder.iterdir():
        found = elf.needs(path)
        assert found.machine == "aarch64"
        assert "libc.so.6" in found.libraries
    said: list[str] = []
    assert build_runner(BOARD, artifacts, said.append) == made
    assert said == []


@pytest.mark.aarch64
@pytest.mark.parametrize("kind", ["opencl", "cuda"])
def test_the_back_end_of_a_boards_gpu_is_made_of_old_libraries(artifacts: Path, kind: str) -> None:
    made = build_runner(replace(BOARD, compiler=replace(BOARD.compiler, kind=kind)), artifacts)
    found = elf.needs(made.folder / f"libdlas_{kind}.so")
    assert found.machine == "aarch64"
    assert {"libtvm_runtime.so", "libtvm_ffi.so"} < set(found.libraries)
    assert not any("OpenCL" in name or "cuda" in name for name in found.libraries)


@pytest.mark.aarch64
def test_a_board_that_is_too_old_is_named(artifacts: Path) -> None:
    build_runner(BOARD, artifacts)
    older = replace(BOARD, system=System(release="Debian 7", glibc="2.13"))  # has a runner of the same key
    with pytest.raises(BuildError, match=r"needs GLIBC_2\.\d+, Debian 7 has 2\.13"):
        build_runner(older, artifacts)


@pytest.mark.aarch64
def test_the_key_of_a_board_needs_no_download(monkeypatch: pytest.MonkeyPatch, host: Target) -> None:
    monkeypatch.setattr(wheels, "foreign_libraries", None)
    monkeypatch.setattr(sysroot, "make_sysroot", None)
    monkeypatch.setattr(sysroot, "sysroot_key", lambda: "that of another sysroot")
    assert runner_key(BOARD) != runner_key(host)
    other = runner_key(BOARD)
    monkeypatch.undo()
    assert runner_key(BOARD) != other


TEXT = member("job.txt", job_text())
MODULE = member("model.so", b"no library")
INPUT = member("input.bin", bytes(8))
ARCHIVES: dict[str, tuple[bytes, str]] = {
    "noise": (b"\xff" * 1024, "not ustar"),
    "half a header": (tar(TEXT)[:300], "ends early"),
    "cut in a member": (tar(TEXT, member("model.so", bytes(4096)))[:2048], "ends early"),
    "wrong order": (tar(MODULE, TEXT), "'model.so' where job.txt should be"),
    "absolute path": (tar(TEXT, member("/etc/model.so")), "'/etc/model.so' where model.so"),
    "parent folder": (tar(TEXT, member("../model.so")), "'../model.so' where model.so"),
    "long name": (tar(TEXT, member("d" * 90 + "/" + "f" * 90)), "where model.so should be"),
    "symbolic link": (tar(TEXT, member("model.so", kind=tarfile.SYMTYPE, link="/etc/x")), "not a regular"),
    "hard link": (tar(TEXT, member("model.so", kind=tarfile.LNKTYPE, link="job.txt")), "not a regular"),
    "folder": (tar(TEXT, member("model.so", kind=tarfile.DIRTYPE)), "not a regular"),
    "device": (tar(TEXT, member("model.so", kind=tarfile.CHRTYPE)), "not a regular"),
    "GNU format": (tar(TEXT, tar_format=tarfile.GNU_FORMAT), "not ustar"),
    "long job": (tar(member("job.txt", bytes(65537))), "more than 65536"),
    "short input": (tar(TEXT, MODULE, member("input.bin", bytes(4))), "shorter than the shape"),
    "long input": (tar(TEXT, MODULE, member("input.bin", bytes(12))), "more than 8"),
    "one too many": (tar(TEXT, MODULE, INPUT, member("more.so")), "'more.so' is one member too many"),
    "no library": (tar(TEXT, MODULE, INPUT), "model.so"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_bad_archive_is_refused(program: Runner, tmp_path: Path, name: str) -> None:
    archive, message = ARCHIVES[name]
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    code, answer = run_tar(program, folder, archive)
    assert code == 1
    assert message in answer["error"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_header_is_refused(program: Runner, tmp_path: Path) -> None:
    archive = bytearray(tar(TEXT))
    archive[0] ^= 1
    assert "damaged" in run_tar(program, tmp_path, bytes(archive))[1]["error"]


def test_a_folder_that_is_not_empty_is_refused(program: Runner, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "model.so").symlink_to(tmp_path / "elsewhere")
    archive = tar(TEXT, MODULE, INPUT)
    assert "File exists" in run_tar(program, tmp_path, archive)[1]["error"]
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "1"}, "protocol is '1'"),
        ({"device": "vulkan"}, "there is no device 'vulkan'"),
        ({"device": "opencl"}, "this runner has no device opencl: "),
        ({"device": "cuda"}, "libdlas_cuda.so: cannot open shared object file"),
        ({"dtype": "float16"}, "only float32"),
        ({"inputs": "0"}, "inputs is '0'"),
        ({"inputs": "1000001"}, "inputs is"),
        ({"shape": "2,0"}, "shape is '0'"),
        ({"shape": "2,-1"}, "shape is '-1'"),
        ({"shape": "1000000,1000000"}, "shape is"),
        ({"shape": "99999999999999999999"}, "shape is"),
        ({"output_bytes": "9999999999"}, "output_bytes is"),
        ({"inputs": "1000", "output_bytes": "1073742"}, "output_bytes is"),
        ({"warmups": "0"}, "both 0 or neither"),
        ({"flush_bytes": "-1"}, "flush_bytes is '-1'"),
        ({"repeats": "0"}, "both 0 or neither"),
        ({"repeats": "100001"}, "repeats is"),
        ({"threads": "many"}, "threads is 'many'"),
        ({"cpus": "3-1"}, "cpus is '1'"),
        ({"cpus": "900"}, "CPU set 900 is not to be had"),
        ({"cpus": "0-900"}, "CPU set 0-900 is not to be had"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_bad_job_is_refused(program: Runner, tmp_path: Path, change: dict[str, str], message: str) -> None:
    archive = tar(member("job.txt", job_text(**change)), MODULE, INPUT)
    code, answer = run_tar(program, tmp_path, archive)
    assert code == 1
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"protocol=1\nprotocol=1\n", "'protocol' is there twice"),
        (b"protocol\n", "no '='"),
        (b"device=cpu\n", "'protocol' is missing"),
    ],
)
def test_a_garbled_job_is_refused(program: Runner, tmp_path: Path, text: bytes, message: str) -> None:
    assert message in run_tar(program, tmp_path, tar(member("job.txt", text)))[1]["error"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["run"], ["serve"], ["serve", "--dir"], ["serve", "--dir", "x", "--verbose", "1"], ["probe", "x"]],
)
def test_a_wrong_command_line_is_refused(program: Runner, arguments: list[str]) -> None:
    code, answer = said(program, b"", *arguments)
    assert code == 2
    assert answer["error"]


def test_probe_tells_the_contents_of_files(program: Runner, tmp_path: Path) -> None:
    every_byte = bytes(range(256))
    (tmp_path / "a").write_bytes(every_byte)
    (tmp_path / "b").write_bytes(b"long" * 100_000)
    os.mkfifo(tmp_path / "pipe")  # must not be waited for
    patterns = f"observe={tmp_path}/*\nobserve=/no/such/file\n".encode()
    code, answer = said(program, patterns, "probe")
    assert code == 0
    assert answer["protocol"] == 4
    assert answer["files"] == {
        f"{tmp_path}/a": every_byte.decode("latin-1"),
        f"{tmp_path}/b": ("long" * 100_000)[: 64 << 10],
    }


def test_probe_keeps_its_answer_under_a_mebibyte(program: Runner, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}").write_bytes(bytes(60_000))  # each NUL becomes six characters
    code, answer = said(program, f"observe={tmp_path}/*\n".encode(), "probe")
    assert code == 0
    assert 0 < len(json.dumps(answer)) < 1 << 20


def test_what_the_network_prints_stays_out_of_the_answer(
    program: Runner, job: Job, tmp_path: Path, evil: Callable[[str], Path]
) -> None:
    loud = evil('puts("I am stdout"); fflush(stdout); (void)!write(1, "me too", 6);')
    archive = b"".join(encode_job(replace(job, module=loud), BOARD))
    (tmp_path / "job").mkdir()
    code, answer = run_tar(program, tmp_path / "job", archive)
    assert code == 1
    assert "vm_load_executable" in answer["error"]


def tasks(files: dict[str, str], field: str) -> list[str]:
    """One field of the status of each thread of the runner."""
    prefix = f"{field}:\t"
    return [
        line.removeprefix(prefix)
        for path, contents in files.items()
        if "/task/" in path
        for line in contents.splitlines()
        if line.startswith(prefix)
    ]


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_threads_that_were_asked_for_are_there(local: LocalDevice, job: Job, threads: int) -> None:
    result = local.run(replace(job, threads=threads, observe=("/proc/self/task/*/status",)))
    assert result.threads == threads
    assert len(tasks(dict(result.before), "Pid")) == threads
    assert len(tasks(dict(result.after), "Pid")) == threads


def test_no_thread_is_bound_by_tvm(local: LocalDevice, job: Job) -> None:
    result = local.run(replace(job, threads=2, observe=("/proc/self/task/*/status",)))
    assert set(tasks(dict(result.after), "Cpus_allowed_list")) == {result.cpu_set}


def test_the_cpu_set_of_the_board_holds_for_every_thread(local: LocalDevice, job: Job) -> None:
    cpu = str(max(os.sched_getaffinity(0)))
    board = replace(local.target.board, cpu_set=cpu)
    device = replace(local, target=replace(local.target, board=board))
    result = device.run(replace(job, threads=2, observe=("/proc/self/task/*/status",)))
    assert result.cpu_set == cpu
    assert tasks(dict(result.after), "Cpus_allowed_list") == [cpu, cpu]


def test_every_observed_file_is_read_before_and_after(local: LocalDevice, job: Job) -> None:
    result = local.run(replace(job, observe=("/proc/self/io", "/proc/uptime", "/no/such/file")))
    assert set(result.before) == set(result.after) == {"/proc/self/io", "/proc/uptime"}
    assert float(result.before["/proc/uptime"].split()[0]) <= float(result.after["/proc/uptime"].split()[0])


def test_the_memory_is_the_runners_and_not_its_parents(local: LocalDevice, job: Job) -> None:
    ballast = np.ones(128 << 20, "uint8")
    result = local.run(job)
    assert 1 << 20 < result.peak_rss_bytes < ballast.nbytes


def test_a_wrong_output_size_is_an_error(local: LocalDevice, job: Job) -> None:
    with pytest.raises(DeviceError, match="1024 bytes, 512 were expected"):
        local.run(replace(job, output_shape=(2, 64)))
    with pytest.raises(DeviceError, match="1024 bytes, 2048 were expected"):
        local.run(replace(job, output_shape=(8, 64)))
