from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas.errors import TargetError
from dlas.hardware import cpu

SSE = "fpu tsc cx8 cmov mmx fxsr sse sse2 ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
AVX2 = f"{SSE} avx avx2 fma bmi1 bmi2 f16c abm movbe xsave"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


def machine(
    root: Path, flags: str, cores: list[str], l2: str = "1024K", l2_shared: list[str] | None = None
) -> Path:
    """A tree of /proc and /sys. cores, l2_shared: the logical CPUs of each core, and of each L2."""
    cpus = sorted(cpu.parse_cpus(",".join(cores)))
    entry = "processor\t: {}\nmodel name\t: A CPU\nflags\t\t: {}\nbugs\t\t: none\n"
    write(root, {"proc/cpuinfo": "\n".join(entry.format(number, flags) for number in cpus)})
    for core in cores:
        for number in cpu.parse_cpus(core):
            write(root, {f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": core})
    for shared in l2_shared or cores:
        for number in cpu.parse_cpus(shared):
            caches = f"sys/devices/system/cpu/cpu{number}/cache"
            write(root, {f"{caches}/index0/level": "1", f"{caches}/index0/size": "32K"})
            write(root, {f"{caches}/index2/level": "2", f"{caches}/index2/size": l2})
            write(root, {f"{caches}/index2/shared_cpu_list": shared})
            write(root, {f"{caches}/index3/level": "3", f"{caches}/index3/size": "32768K"})
    return root


def test_avx512(tmp_path: Path) -> None:
    found = cpu.detect(machine(tmp_path, f"{AVX512} avx512_vnni", ["0", "1"]), frozenset({0, 1}))
    assert found == cpu.Cpu(
        vectors="AVX-512",
        mcpu="x86-64-v4",
        mattr=("-prefer-256-bit", "+avx512vnni"),
        vector_lanes=16,
        vector_registers=32,
        l2_bytes=1024 * 1024,
        l2_read=True,
        cores=(0, 1),
        cores_read=True,
        threads=2,
    )


def test_avx2(tmp_path: Path) -> None:
    found = cpu.detect(machine(tmp_path, AVX2, ["0", "1", "2", "3"], l2="256K"), frozenset(range(4)))
    assert found == cpu.Cpu(
        vectors="AVX2",
        mcpu="x86-64-v3",
        mattr=(),
        vector_lanes=8,
        vector_registers=16,
        l2_bytes=256 * 1024,
        l2_read=True,
        cores=(0, 1, 2, 3),
        cores_read=True,
        threads=4,
    )


@pytest.mark.parametrize(
    ("flags", "mcpu", "mattr"),
    [
        (AVX512, "x86-64-v4", ("-prefer-256-bit",)),
        (f"{AVX2} avx_vnni", "x86-64-v3", ("+avxvnni",)),
        # Knights Landing: 512 bits, but not the level
        (f"{AVX2} avx512f avx512cd avx512er avx512pf", "x86-64-v3", ()),
    ],
)
def test_levels_and_extras(tmp_path: Path, flags: str, mcpu: str, mattr: tuple[str, ...]) -> None:
    found = cpu.detect(machine(tmp_path, flags, ["0"]), frozenset({0}))
    assert (found.mcpu, found.mattr) == (mcpu, mattr)


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (SSE, "this machine's CPU lacks avx, avx2, fma, bmi1, bmi2, f16c, abm, movbe, xsave"),
        (AVX512.replace(" fma", ""), "this machine's CPU lacks fma"),
        ("", "this machine's CPU is not an x86 CPU (/proc/cpuinfo lists no flags)"),
    ],
)
def test_too_little_is_refused(tmp_path: Path, flags: str, cause: str) -> None:
    with pytest.raises(TargetError) as caught:
        cpu.detect(machine(tmp_path, flags, ["0"]), frozenset({0}))
    assert str(caught.value) == (
        f"{cause}: AVX2 and what came with it is the least that can be detected; "
        'write the values in a target file of your own, in place of "detect"'
    )


def test_other_architecture_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\nCPU part\t: 0xd09"})
    with pytest.raises(TargetError, match="is not an x86 CPU"):
        cpu.detect(tmp_path, frozenset({0}))


def test_hyper_threads_are_no_cores(tmp_path: Path) -> None:
    found = cpu.detect(machine(tmp_path, AVX2, ["0,4", "1,5", "2,6", "3,7"]), frozenset(range(8)))
    assert (found.threads, found.cores, found.l2_bytes) == (4, (0, 1, 2, 3), 1024 * 1024)


def test_neighbouring_hyper_threads(tmp_path: Path) -> None:
    found = cpu.detect(machine(tmp_path, AVX2, ["0-1", "2-3"]), frozenset(range(4)))
    assert (found.threads, found.cores) == (2, (0, 2))


def test_affinity_leaves_cores_out(tmp_path: Path) -> None:
    found = cpu.detect(machine(tmp_path, AVX2, ["0,4", "1,5", "2,6", "3,7"]), frozenset({1, 5, 7}))
    assert (found.threads, found.cores) == (2, (1, 7))


def test_shared_l2_is_divided_by_cores(tmp_path: Path) -> None:
    root = machine(tmp_path, AVX2, ["0-1", "2-3", "4-5", "6-7"], l2="2048K", l2_shared=["0-7"])
    assert cpu.detect(root, frozenset(range(8))).l2_bytes == 512 * 1024


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 4),
        ({"proc/self/cgroup": "0::/not/mounted", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "6400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "7:blkio:/\n3:cpu,cpuacct:/docker/1\n0::/",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4,
        ),
    ],
)
def test_cpu_limit(tmp_path: Path, files: dict[str, str], threads: int) -> None:
    root = machine(tmp_path, AVX2, ["0", "1", "2", "3"])
    write(root, files)
    assert cpu.detect(root, frozenset(range(4))).threads == threads


def test_a_kernel_that_tells_little(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": f"flags\t: {AVX2}"})
    found = cpu.detect(tmp_path, frozenset({0, 1}))
    assert (found.cores, found.cores_read) == ((0, 1), False)
    assert (found.l2_bytes, found.l2_read) == (cpu.ASSUMED_L2_BYTES, False)


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_cpu_lists_round_trip(cpus: frozenset[int]) -> None:
    assert cpu.parse_cpus(cpu.format_cpus(tuple(sorted(cpus)))) == cpus
