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


def facts(files: Mapping[str, str]) -> DeviceFacts:
    """Facts from the contents of FILES; the fingerprint is a hash of machine-id, CPU model and CPUs.

    Where there is no machine-id, the kernel's boot id stands in: a reboot then makes a new device, and two
    machines never become one. Neither id leaves this function. Raises DeviceError.
    """
    machine = files.get(MACHINE_ID, "").strip() or files.get(BOOT_ID, "").strip()
    cpus = files.get(CPUS, "").strip()
    if not machine or not cpus:
        missing = CPUS if machine else f"{MACHINE_ID} and no {BOOT_ID}"
        raise DeviceError(f"the device shows no {missing}", "mount /proc and /sys on it")
    named = re.search(r"^model name\s*:\s*(.+)$", files.get(CPU_INFO, ""), re.MULTILINE)
    model = named[1].strip() if named else "unknown"
    return DeviceFacts(digest("dlas device", machine, model, cpus)[:16], model, {CPUS: cpus})
