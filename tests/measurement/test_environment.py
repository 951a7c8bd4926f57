"""Whether a measurement counts, from what the device's kernel said before and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlas.measurement import environment
from dlas.measurement.measure import measure
from dlas.values import NO_BOUNDS, Bounds
from tests.measurement.answering import Answering, make_artifact

CPU = "/sys/devices/system/cpu"
BOUNDS = Bounds("performance", least_mhz=2362, most_celsius=85, most_other_percent=5, least_free_mib=512)
# Of a board whose jobs run on CPUs 4 and 5; 0 is a small core that is busy, slow and of no account.
GOOD = {
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "533000\n",
    f"{CPU}/cpu4/cpufreq/scaling_cur_freq": "2362000\n",
    f"{CPU}/cpu5/cpufreq/scaling_cur_freq": "2362000\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu4/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu5/cpufreq/scaling_governor": "performance\n",
    "/sys/class/thermal/thermal_zone0/temp": "41500\n",
    "/sys/class/thermal/thermal_zone1/temp": "84900\n",
    "/proc/meminfo": "MemTotal: 6000000 kB\nMemAvailable:  1048576 kB\n",
}


def stat(cpu4: tuple[int, int], cpu5: tuple[int, int], own: int) -> dict[str, str]:
    """Ticks that each CPU was busy and idle, and those of the job."""
    lines = [f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 99 99" for n, (busy, idle) in ((4, cpu4), (5, cpu5))]
    return {
        "/proc/stat": "\n".join(
            ["cpu  1 2 3 4 5 6 7 8 9 10", "cpu0 900 0 0 100 0 0 0 0 0 0", *lines, "intr 7"]
        ),
        "/proc/self/stat": f"17 (a runner) R 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0",
    }


def test_a_quiet_board_is_in_bounds() -> None:
    before, after = GOOD | stat((10, 90), (10, 90), 5), GOOD | stat((108, 92), (60, 140), 152)
    assert environment.other_percent(frozenset({4, 5}), before, after) == 0
    assert environment.find_breach(BOUNDS, "4-5", before, after) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{CPU}/cpu5/cpufreq/scaling_cur_freq": "1402000"}, "CPU 5 at 1402 MHz, below 2362 MHz, after"),
        (
            {f"{CPU}/cpu4/cpufreq/scaling_governor": "schedutil"},
            "governor of CPU 4 is schedutil, not performance, after",
        ),
        ({"/sys/class/thermal/thermal_zone1/temp": "85600"}, "86 degrees Celsius, above 85, after"),
        (
            {"/proc/meminfo": "MemAvailable: 409600 kB\n"},
            "400 MiB of memory free, below 512 MiB, after",
        ),
        (stat((110, 90), (60, 140), 55), "other processes had 47% of its CPUs' time or more, allowed is 5%"),
    ],
    ids=["throttled", "governor", "hot", "full", "busy"],
)
def test_what_is_out_of_bounds_is_said_with_its_figure(changes: dict[str, str], reason: str) -> None:
    before = GOOD | stat((10, 90), (10, 90), 5)
    after = GOOD | stat((108, 92), (60, 140), 152) | changes
    assert environment.find_breach(BOUNDS, "4-5", before, after) == reason
    assert environment.find_breach(NO_BOUNDS, "4-5", before, after) == ""


def test_every_breach_is_told_and_when() -> None:
    slow = GOOD | {f"{CPU}/cpu4/cpufreq/scaling_cur_freq": "903000"}
    reason = environment.find_breach(BOUNDS, "4-5", slow, slow)
    assert reason == "CPU 4 at 903 MHz, below 2362 MHz, before; CPU 4 at 903 MHz, below 2362 MHz, after"


def test_what_is_bounded_and_cannot_be_read_is_out_of_bounds() -> None:
    assert environment.find_faults(BOUNDS, frozenset({4, 5}), {}) == [
        "no governor can be read",
        "no clock can be read",
        "no temperature can be read",
        "free memory cannot be read",
    ]
    assert environment.find_breach(NO_BOUNDS, "4-5", {}, {}) == ""
    half = {path: text for path, text in GOOD.items() if "cpu5" not in path}
    assert environment.find_faults(BOUNDS, frozenset({4, 5}), half) == [
        "the governor of CPU 5 cannot be read",
        "the clock of CPU 5 cannot be read",
    ]


HOSTILE = ["", "x", "9" * 5000, "-1", "1e400", "\u0664", "1 2", "\x1b[2J"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_device_that_lies_about_its_state_raises_nothing(text: str) -> None:
    state = dict.fromkeys(GOOD, text) | {"/proc/stat": f"cpu4 {text} 0 0 1 0 0 0 0"}
    state["/proc/meminfo"] = f"MemAvailable: {text} kB"
    state["/proc/self/stat"] = f"1 (x) R {' '.join([text] * 20)}"
    assert environment.find_breach(BOUNDS, "4-5", state, state)
    assert environment.other_percent(frozenset(), state, state) is None
    assert len(environment.find_breach(BOUNDS, "4-5", state, state)) < 1000


def test_the_constant_of_a_jetsons_power_chip_is_no_temperature() -> None:
    zones = {
        "/sys/class/thermal/thermal_zone0/temp": "100000",
        "/sys/class/thermal/thermal_zone0/type": "PMIC-Die\n",
        "/sys/class/thermal/thermal_zone1/temp": "41000",
        "/sys/class/thermal/thermal_zone1/type": "CPU-therm\n",
    }
    assert environment.hottest_celsius(zones) == 41


def test_too_short_a_run_tells_nothing_of_others() -> None:
    before, after = stat((10, 90), (10, 90), 5), stat((13, 90), (13, 92), 5)
    assert environment.other_percent(frozenset({4, 5}), before, after) == 0
    assert environment.other_percent(frozenset({4, 5}), before, before) is None


def test_all_cpus_count_where_there_is_no_cpu_set() -> None:
    reason = environment.find_breach(replace(BOUNDS, most_other_percent=0), "", GOOD, GOOD)
    assert reason.startswith("governor of CPU 0 is powersave, not performance, before")


@pytest.mark.parametrize(
    ("emulated", "output", "status"),
    [
        (False, 2.0, "quarantined"),
        (True, 2.0, "emulated"),
        (True, 9.0, "wrong_output"),
        (False, 9.0, "wrong_output"),
    ],
)
def test_a_measurement_out_of_bounds_is_quarantined(
    tmp_path: Path, emulated: bool, output: float, status: str
) -> None:
    device = Answering(np.full((1, 3), output, np.float32), emulated=emulated, files=GOOD)
    bounds = Bounds(least_free_mib=2048)
    samples = measure(device, make_artifact(tmp_path, 1, 3), "fp32", 1, bounds=bounds)
    assert samples.status == status
    if status == "quarantined":
        assert samples.reason.startswith("1024 MiB of memory free, below 2048 MiB, before")
    if status == "emulated":
        assert samples.reason == ""
