"""What of a device's state is worth a row, read by the runner before and after the samples, and whether a
measurement in it counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dlas.hardware.cpu import parse_cpus
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
# A device is not trusted to write numbers: these are none that int() or float() could fail on.
_COUNT = "[0-9]{1,15}"
_MILLI = "-?[0-9]{1,7}"
_WORD = 20  # characters of a governor's name, at most

State = Mapping[str, str]


def find_breach(bounds: Bounds, cpu_set: str, before: State, after: State) -> str:
    """Why a measurement between two states does not count, with the figures; empty where it does.

    cpu_set: of the job, as in taskset.
    """
    cpus = parse_cpus(cpu_set)
    found = [
        f"{breach}, {when}"
        for when, state in (("before", before), ("after", after))
        for breach in find_faults(bounds, cpus, state)
    ]
    other = other_percent(cpus, before, after)
    if bounds.most_other_percent and other is not None and other > bounds.most_other_percent:
        found.append(
            f"other processes had {other:.0f}% of its CPUs' time or more, "
            f"allowed is {bounds.most_other_percent}%"
        )
    return "; ".join(found)


def find_faults(bounds: Bounds, cpus: frozenset[int], state: State) -> list[str]:
    """What of one state is out of bounds, each with its figure. cpus: those of the job, empty for all.

    What is bounded and cannot be read is out of bounds too: nobody knows.
    """
    found: list[str] = []
    if bounds.governor:
        found += _wrong_governors(bounds.governor, cpus, state)
    if bounds.least_mhz:
        found += _slow_cpus(bounds.least_mhz, cpus, state)
    if bounds.most_celsius:
        celsius = hottest_celsius(state)
        if celsius is None:
            found.append("no temperature can be read")
        elif celsius > bounds.most_celsius:
            found.append(f"{celsius:.0f} degrees Celsius, above {bounds.most_celsius}")
    if bounds.least_free_mib:
        free_mib = available_mib(state)
        if free_mib is None:
            found.append("free memory cannot be read")
        elif free_mib < bounds.least_free_mib:
            found.append(f"{free_mib} MiB of memory free, below {bounds.least_free_mib} MiB")
    return found


def _wrong_governors(wanted: str, cpus: frozenset[int], state: State) -> list[str]:
    found = dict(_of_cpus(state, "scaling_governor", cpus))
    return [
        *(f"governor of CPU {cpu} is {name}, not {wanted}" for cpu, name in found.items() if name != wanted),
        *_unread("governor", cpus, found),
    ]


def _slow_cpus(least_mhz: int, cpus: frozenset[int], state: State) -> list[str]:
    found = {cpu: khz // 1000 for cpu, khz in _clocks_khz(cpus, state).items()}
    return [
        *(f"CPU {cpu} at {mhz} MHz, below {least_mhz} MHz" for cpu, mhz in found.items() if mhz < least_mhz),
        *_unread("clock", cpus, found),
    ]


def _unread(what: str, cpus: frozenset[int], found: Mapping[int, object]) -> list[str]:
    if not found:
        return [f"no {what} can be read"]
    return [f"the {what} of CPU {cpu} cannot be read" for cpu in sorted(cpus - set(found))]


def hottest_celsius(state: State) -> float | None:
    """Of the thermal zones; None where there is none that can be read.

    The zone of a Jetson's power chip shows a constant, and does not count.
    """
    zones = []
    for path, text in state.items():
        is_zone = re.fullmatch(r"/sys/class/thermal/thermal_zone\d+/temp", path)
        is_constant = "PMIC" in state.get(path.replace("/temp", "/type"), "")
        if is_zone and not is_constant and re.fullmatch(_MILLI, text.strip()):
            zones.append(int(text) / 1000)
    return max(zones, default=None)


def available_mib(state: State) -> int | None:
    """Memory that can be had without swapping; None where the kernel does not tell."""
    found = re.search(rf"^MemAvailable:\s+({_COUNT}) kB$", state.get("/proc/meminfo", ""), re.MULTILINE)
    return int(found[1]) // 1024 if found else None


def governors(cpus: frozenset[int], state: State) -> list[str]:
    """Those that the CPUs have, each once."""
    return sorted({governor for _, governor in _of_cpus(state, "scaling_governor", cpus)})


def clocks_mhz(cpus: frozenset[int], state: State) -> list[int]:
    """Those that the CPUs have, each once."""
    return sorted({khz // 1000 for khz in _clocks_khz(cpus, state).values()})


def other_percent(cpus: frozenset[int], before: State, after: State) -> float | None:
    """Share of the CPUs' time that others had at least, between two states; None where it cannot be told.

    The kernel counts ticks of 10 ms, for each CPU (/proc/stat) and the job (/proc/self/stat). Each counter
    may be one off at either end, which is taken away: in a short measurement that leaves nothing.
    """
    counted = [_busy_ticks(cpus, state) for state in (before, after)]
    own = [_own_ticks(state) for state in (before, after)]
    if None in counted or None in own:
        return None
    (busy_then, total_then, _), (busy_now, total_now, count) = counted  # type: ignore[misc]
    others = busy_now - busy_then - (own[1] - own[0]) - 2 * (count + 1)  # type: ignore[operator]
    total = total_now - total_then
    return 100 * max(0, others) / total if total > 0 else None


def _of_cpus(state: State, name: str, cpus: frozenset[int]) -> Iterator[tuple[int, str]]:
    for path, text in sorted(state.items()):
        found = re.fullmatch(rf"{_CPU}/cpu(\d{{1,4}})/cpufreq/{name}", path)
        if found and (not cpus or int(found[1]) in cpus):
            yield int(found[1]), text.strip()[:_WORD]


def _clocks_khz(cpus: frozenset[int], state: State) -> dict[int, int]:
    found = _of_cpus(state, "scaling_cur_freq", cpus)
    return {cpu: int(khz) for cpu, khz in found if re.fullmatch(_COUNT, khz)}


def _busy_ticks(cpus: frozenset[int], state: State) -> tuple[int, int, int] | None:
    """Ticks that were not idle, and all, of these CPUs since the machine started; and how many CPUs."""
    busy = total = count = 0
    lines = re.findall(rf"^cpu(\d{{1,4}})((?: {_COUNT}){{5,12}})$", state.get("/proc/stat", ""), re.MULTILINE)
    for number, text in lines:
        if not cpus or int(number) in cpus:
            ticks = [int(word) for word in text.split()][:8]  # guest time, behind these, is in them already
            total += sum(ticks)
            busy += sum(ticks) - sum(ticks[column] for column in _IDLE)
            count += 1
    return (busy, total, count) if total else None


def _own_ticks(state: State) -> int | None:
    """User and system time of the job's process."""
    fields = state.get("/proc/self/stat", "").rpartition(")")[2].split()[11:13]
    return (
        sum(map(int, fields))
        if len(fields) == 2 and all(re.fullmatch(_COUNT, text) for text in fields)
        else None
    )
