"""What the x86 CPU of this machine offers to compiled code, as the kernel tells it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlas.errors import TargetError

ASSUMED_L2_BYTES = 256 * 1024  # the smallest of any CPU with AVX2

# What levels 3 and 4 of the x86-64 psABI ("Micro-Architecture Levels") add, in the words of /proc/cpuinfo.
# The levels before need no look: every CPU with AVX has them.
V3 = ("avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe", "xsave")
V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Cpu:
    """l2_bytes: one core's share of the L2. cores: one logical CPU of each physical core that may be used.

    threads: how many of the cores the control group's CPU limit pays for. l2_read and cores_read say
    whether the kernel told the size and which logical CPUs are one core.
    """

    vectors: str  # AVX2 | AVX-512
    mcpu: str
    mattr: tuple[str, ...]
    vector_lanes: int
    vector_registers: int
    l2_bytes: int
    l2_read: bool
    cores: tuple[int, ...]
    cores_read: bool
    threads: int


def detect(root: Path = Path("/"), allowed: frozenset[int] | None = None) -> Cpu:
    """Look at the CPU that this process runs on.

    root: where /proc and /sys are; allowed: the logical CPUs that the process may use, its affinity by
    default. Raises TargetError when the CPU has not all of AVX2's level, naming what is missing.
    """
    allowed = frozenset(os.sched_getaffinity(0)) if allowed is None else allowed
    flags = _flags(root)
    wide = flags.issuperset(V4)
    siblings = {cpu: _siblings(root, cpu) for cpu in allowed}
    cores = sorted({min((siblings[cpu] or {cpu}) & allowed) for cpu in allowed})
    l2_bytes = _l2_share_bytes(root, cores[0])
    limit = min(_cpu_limits(root), default=float(len(cores)))
    return Cpu(
        vectors="AVX-512" if wide else "AVX2",
        mcpu="x86-64-v4" if wide else "x86-64-v3",
        mattr=_mattr(flags, wide),
        vector_lanes=16 if wide else 8,
        vector_registers=32 if wide else 16,
        l2_bytes=l2_bytes or ASSUMED_L2_BYTES,
        l2_read=l2_bytes > 0,
        cores=tuple(cores),
        cores_read=all(siblings.values()),
        threads=max(1, min(len(cores), int(limit))),
    )


def format_cpus(cpus: tuple[int, ...]) -> str:
    """Ascending CPU numbers as taskset writes them.

    >>> format_cpus((0, 1, 2, 5))
    '0-2,5'
    """
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def parse_cpus(text: str) -> frozenset[int]:
    """CPU numbers of taskset's notation; none of an empty text.

    >>> sorted(parse_cpus("0-2,5"))
    [0, 1, 2, 5]
    """
    ends = (part.partition("-") for part in text.split(",") if part)
    return frozenset(cpu for first, _, last in ends for cpu in range(int(first), int(last or first) + 1))


def _read(path: Path) -> str:
    """Contents of a kernel's file, empty when it is not there: virtual machines and sandboxes hide some."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _flags(root: Path) -> frozenset[str]:
    lines = _read(root / "proc/cpuinfo").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    missing = [flag for flag in V3 if flag not in flags]
    if missing:
        what = f"lacks {', '.join(missing)}" if flags else "is not an x86 CPU (/proc/cpuinfo lists no flags)"
        raise TargetError(
            f"this machine's CPU {what}: AVX2 and what came with it is the least that can be detected",
            'write the values in a target file of your own, in place of "detect"',
        )
    return frozenset(flags)


def _mattr(flags: frozenset[str], wide: bool) -> tuple[str, ...]:
    if wide:
        # LLVM's x86-64-v4 would keep the code that it vectorises on its own to half a register.
        return ("-prefer-256-bit", *(["+avx512vnni"] if "avx512_vnni" in flags else []))
    return ("+avxvnni",) if "avx_vnni" in flags else ()


def _siblings(root: Path, cpu: int) -> frozenset[int]:
    """All logical CPUs of the core that a logical CPU belongs to, empty when the kernel does not tell."""
    text = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return parse_cpus(text) if text else frozenset()


def _l2_share_bytes(root: Path, cpu: int) -> int:
    """Bytes of L2 over the cores that share it, 0 when the kernel does not tell."""
    for cache in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        size = _read(cache / "size")
        if _read(cache / "level") == "2" and size.endswith("K"):
            sharing = parse_cpus(_read(cache / "shared_cpu_list") or str(cpu))
            cores = {_siblings(root, other) or frozenset({other}) for other in sharing}
            return int(size[:-1]) * 1024 // len(cores)
    return 0


def _cpu_limits(root: Path) -> Iterator[float]:
    """CPUs' worth of time that each control group around this process may use, where one is limited."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # Inside a container the path can be the host's; the top folder is then the container's own group.
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            quota, period = _quota(folder, version=1 if controllers else 2)
            if quota > 0 and period > 0:
                yield quota / period
            if folder == top:
                break


def _quota(group: Path, version: int) -> tuple[int, int]:
    """Microseconds of CPU time in each period of so many microseconds; -1 without a limit."""
    if version == 2:
        quota, _, period = _read(group / "cpu.max").partition(" ")
    else:
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    return (int(quota), int(period)) if quota.isdecimal() and period.isdecimal() else (-1, -1)
