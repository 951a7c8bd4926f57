"""What a machine may lack for the tests of this folder."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

_SYSTEM_COMMANDS = "/usr/local/sbin:/usr/sbin:/sbin"  # where sshd is, which users need not have on their PATH
_QEMU = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_PLATFORMS = """
import ctypes
driver = ctypes.CDLL("libOpenCL.so.1")
ids, count, name = (ctypes.c_void_p * 16)(), ctypes.c_uint(), ctypes.create_string_buffer(256)
driver.clGetPlatformIDs(16, ids, ctypes.byref(count))
for each in ids[: count.value]:
    driver.clGetPlatformInfo(ctypes.c_void_p(each), 0x902, 256, name, None)
    print(name.value.decode())
"""
POCL = "Portable Computing Language"
BOARD_COMMANDS = ("sshd", "ssh", "ssh-keygen", "setpriv")


def find_command(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_COMMANDS}")


@cache
def lacks_board() -> str:
    """Why this machine cannot be a board over ssh; empty when it can. It needs an engine too."""
    if os.geteuid() != 0:
        return "only root starts an sshd that lets root in"
    missing = [name for name in BOARD_COMMANDS if find_command(name) is None]
    return f"a board over ssh needs {', '.join(missing)}" if missing else ""


@cache
def lacks_qemu() -> str:
    """Why no container of linux/arm64 can run; empty when one can."""
    if platform.machine() == "aarch64":
        return "this machine is aarch64 itself, there is nothing to emulate"
    try:
        lines = _QEMU.read_text().splitlines()
    except OSError:
        return f"the kernel has no {_QEMU}: install qemu-user-static and binfmt-support"
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags:")), "")
    if lines[0] != "enabled" or "F" not in flags:  # F: the emulator need not lie inside the container
        return f"{_QEMU} is not enabled with flag F"
    return ""


@cache
def lacks_opencl() -> str:
    """Why no OpenCL runs on this CPU; empty when PoCL is there."""
    # In a process of its own: a driver brings an LLVM that would lie beside TVM's.
    command = [sys.executable, "-c", _PLATFORMS]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if said.returncode != 0:
        return f"no OpenCL: {said.stderr.strip()[-200:]}"
    return (
        "" if POCL in said.stdout.splitlines() else "OpenCL has no platform of PoCL: install pocl-opencl-icd"
    )
