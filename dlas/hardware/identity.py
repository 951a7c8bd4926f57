"""Which machine a device is, from files that look the same outside and inside its containers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dlas.cache import digest
from dlas.errors import DeviceError
from dlas.values import DeviceFacts

MACHINE_ID = "/etc/machine-id"  # an image has none of its own machine: the host's is mounted for the question
BOOT_ID = "/proc/sys/kernel/random/boot_id"
CPU_INFO = "/proc/cpuinfo"
CPUS = "/sys/devices/system/cpu/present"
FILES = (MACHINE_ID, BOOT_ID, CPU_INFO, CPUS)
# On Arm, Linux prints numbers, implementer and part of MIDR_EL1: see its arch/arm64/include/asm/cputype.h.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x004"): "Carmel",
}


def facts(files: Mapping[str, str], emulated: bool = False) -> DeviceFacts:
    """Facts from the contents of FILES; the fingerprint is a hash of machine-id, CPU model and CPUs.

    Where there is no machine-id, the kernel's boot id stands in: a reboot then makes a new device, and two
    machines never become one. Neither id leaves this function. Raises DeviceError.
    """
    machine = files.get(MACHINE_ID, "").strip() or files.get(BOOT_ID, "").strip()
    cpus = files.get(CPUS, "").strip()
    if not machine or not cpus:
        missing = CPUS if machine else f"{MACHINE_ID} and no {BOOT_ID}"
        raise DeviceError(f"the device shows no {missing}", "mount /proc and /sys on it")
    model = cpu_model(files.get(CPU_INFO, ""))
    fingerprint = digest("dlas device", machine, model, cpus)[:16]
    return DeviceFacts(fingerprint, f"an emulator on {model}" if emulated else model, {CPUS: cpus})


def cpu_model(cpu_info: str) -> str:
    """The processor of a /proc/cpuinfo; kinds of cores that a chip has several of, in order.

    >>> cpu_model("CPU implementer : 0x41\\nCPU part : 0xd03\\nCPU implementer : 0x41\\nCPU part : 0xd09")
    'Cortex-A53 + Cortex-A73'
    """
    makers, parts = (
        re.findall(rf"^CPU {field}\s*:\s*(\w+)$", cpu_info, re.MULTILINE) for field in ("implementer", "part")
    )
    numbers = zip(makers, parts, strict=False)
    names = [_ARM_PARTS.get(number, f"Arm {number[0]}/{number[1]}") for number in numbers]
    if not names:  # some of Arm's kernels have a model name too, which is none
        names = re.findall(r"^model name\s*:\s*(.+?)\s*$", cpu_info, re.MULTILINE)[:1]
    return " + ".join(dict.fromkeys(names)) or "unknown"
