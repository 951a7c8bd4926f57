"""What of a device's state is worth a row, read by the runner before and after the samples, and whether a
measurement in it counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dlas.values import Bounds

_CPU = "/sys/devices/system/cpu"
# Paths and glob patterns; what a device does not have is left out of its rows.
OBSERVED = (
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/self/stat",  # the time that the job itself had, and below what its CPUs gave to all
    "/proc/self/status",  # also whether seccomp and its mitigations are on: the likeliest cost of a container
    "/proc/stat",
    "/proc/sys/kernel/osrelease",
    f"{_CPU}/cpu*/cpufreq/scaling_cur_freq",
    f"{_CPU}/cpu*/cpufreq/scaling_governor",
    f"{_CPU}/cpu*/cpufreq/scaling_max_freq",
    f"{_CPU}/cpu*/cpufreq/scaling_min_freq",
    f"{_CPU}/cpufreq/boost",
    f"{_CPU}/intel_pstate/no_turbo",
    f"{_CPU}/online",
    f"{_CPU}/smt/active",
    "/sys/class/devfreq/*/cur_freq",
    "/sys/class/devfreq/*/governor",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)
_IDLE = (3, 4)  # idle and iowait, among the columns of /proc/stat
_SHORTEST_TICKS = 20  # of all CPUs together: in less the counters are too coarse for a share

State = Mapping[str, str]


def find_breach(bounds: Bounds, cpu_set: str, before: State, after: State) -> str:
    """Why a measurement between two states does not count, with the figures; empty where it does.

    cpu_set: of the job, as in taskset. What a device does not tell is in bounds.
    """
    cpus = parse_cpus(cpu_set)
    found = [
        f"{breach} {when}"
        for when, state in (("before", before), ("after", after))
        for breach in find_faults(bounds, cpus, state)
    ]
    other = other_percent(cpus, before, after)
    if bounds.most_other_percent and other is not None and other > bounds.most_other_percent:
        found.append(
            f"other processes had {other:.0f}% of its CPUs' time, allowed is {bounds.most_other_percent}%"
        )
    return "; ".join(found)


def find_faults(bounds: Bounds, cpus: frozenset[int], state: State) -> list[str]:
    """What of one state is out of bounds, each with its figure. cpus: those of the job, empty for all."""
    return [*_wrong_governors(bounds, cpus, state), *_slow_cpus(bounds, cpus, state), *_limits(bounds, state)]


def _wrong_governors(bounds: Bounds, cpus: frozenset[int], state: State) -> Iterator[str]:
    for cpu, governor in _of_cpus(state, "scaling_governor", cpus):
        if bounds.governor and governor != bounds.governor:
            yield f"governor of CPU {cpu} is {governor}, not {bounds.governor},"


def _slow_cpus(bounds: Bounds, cpus: frozenset[int], state: State) -> Iterator[str]:
    for cpu, khz in _of_cpus(state, "scaling_cur_freq", cpus):
        if khz.isdecimal() and int(khz) // 1000 < bounds.least_mhz:
            yield f"CPU {cpu} at {int(khz) // 1000} MHz, below {bounds.least_mhz} MHz,"


def _limits(bounds: Bounds, state: State) -> Iterator[str]:
    celsius = hottest_celsius(state)
    if bounds.most_celsius and celsius is not None and celsius > bounds.most_celsius:
        yield f"{celsius:.0f} degrees Celsius, above {bounds.most_celsius},"
    free_mib = available_mib(state)
    if free_mib is not None and free_mib < bounds.least_free_mib:
        yield f"{free_mib} MiB of memory free, below {bounds.least_free_mib} MiB,"


def hottest_celsius(state: State) -> float | None:
    """Of the thermal zones; None where there is none that can be read."""
    zones = [
        int(text) / 1000
        for path, text in state.items()
        if re.fullmatch(r"/sys/class/thermal/thermal_zone\d+/temp", path) and re.fullmatch(r"-?\d+\s*", text)
    ]
    return max(zones, default=None)


def available_mib(state: State) -> int | None:
    """Memory that can be had without swapping; None where the kernel does not tell."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", state.get("/proc/meminfo", ""), re.MULTILINE)
    return int(found[1]) // 1024 if found else None


def governors(cpus: frozenset[int], state: State) -> list[str]:
    """Those that the CPUs have, each once."""
    return sorted({governor for _, governor in _of_cpus(state, "scaling_governor", cpus)})


def clocks_khz(cpus: frozenset[int], state: State) -> list[int]:
    """Of the CPUs whose clock can be read."""
    return [int(khz) for _, khz in _of_cpus(state, "scaling_cur_freq", cpus) if khz.isdecimal()]


def other_percent(cpus: frozenset[int], before: State, after: State) -> float | None:
    """Share of the CPUs' time that others had between two states; None where it cannot be told.

    The kernel counts in ticks of 10 ms for each CPU (/proc/stat), and for the job (/proc/self/stat), so that
    short measurements tell nothing.
    """
    busy = _busy_ticks(cpus, before), _busy_ticks(cpus, after)
    own = _own_ticks(before), _own_ticks(after)
    if None in busy or None in own:
        return None
    (busy_then, total_then), (busy_now, total_now) = busy[0] or (0, 0), busy[1] or (0, 0)
    total = total_now - total_then
    if total < _SHORTEST_TICKS:
        return None
    others = busy_now - busy_then - ((own[1] or 0) - (own[0] or 0))
    return 100 * max(0, others) / total


def parse_cpus(text: str) -> frozenset[int]:
    """The CPUs of a list as in taskset.

    >>> sorted(parse_cpus("0-2,6"))
    [0, 1, 2, 6]
    """
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1))


def _of_cpus(state: State, name: str, cpus: frozenset[int]) -> Iterator[tuple[int, str]]:
    for path, text in sorted(state.items()):
        found = re.fullmatch(rf"{_CPU}/cpu(\d+)/cpufreq/{name}", path)
        if found and (not cpus or int(found[1]) in cpus):
            yield int(found[1]), text.strip()


def _busy_ticks(cpus: frozenset[int], state: State) -> tuple[int, int] | None:
    """Ticks that were not idle, and all, of these CPUs since the machine started."""
    busy = total = 0
    for number, text in re.findall(r"^cpu(\d+) ([\d ]+)$", state.get("/proc/stat", ""), re.MULTILINE):
        if not cpus or int(number) in cpus:
            ticks = [int(word) for word in text.split()][:8]  # guest time, behind these, is in them already
            total += sum(ticks)
            busy += sum(ticks) - sum(ticks[column] for column in _IDLE if column < len(ticks))
    return (busy, total) if total else None


def _own_ticks(state: State) -> int | None:
    """User and system time of the job's process."""
    fields = state.get("/proc/self/stat", "").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 and fields[11].isdecimal() else None
