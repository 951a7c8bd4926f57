"""The targets of TVM's code generators, for the compilers of our targets."""

from __future__ import annotations

from dataclasses import replace

import tvm

from dlas.errors import ScheduleError
from dlas.values import Compiler

# Threads of a block, at most; threads that go in step; bytes of shared memory. Those of CUDA are every GPU's,
# those of OpenCL what a small one is sure to have with as many registers as a tile takes.
LIMITS = {"cuda": (1024, 32, 48 * 1024), "opencl": (128, 4, 16 * 1024)}
THREADS = {"cuda": 256, "opencl": 128}
# LLVM's own unrolling of a filter's loops keeps inputs of several taps at once, more than 32 registers hold:
# up to 105 accesses of the stack beside 144 multiply-adds. What is to be unrolled, the schedules unroll.
_KEEP_LOOPS = ("-unroll-threshold:uint=0", "-unroll-threshold-aggressive:uint=0")


def of(compiler: Compiler, keeps_loops: bool = False) -> tvm.target.Target:
    """Of a CPU or a GPU. keeps_loops: as in `llvm_target`."""
    return gpu_target(compiler) if compiler.is_gpu else llvm_target(compiler, keeps_loops)


def threads(compiler: Compiler) -> int:
    """Of a block, at most, where each has as many registers as a tile takes."""
    return THREADS[compiler.kind]


def llvm_target(compiler: Compiler, keeps_loops: bool = False) -> tvm.target.Target:
    """The TVM target of a CPU; on Arm, LLVM keeps all loops."""
    description: dict[str, object] = {"kind": compiler.kind, "mcpu": compiler.mcpu}
    if compiler.mtriple:
        description["mtriple"] = compiler.mtriple
    if compiler.mattr:
        description["mattr"] = list(compiler.mattr)
    if compiler.kind == "llvm" and (compiler.arch == "aarch64" or keeps_loops):
        description["cl-opt"] = list(_KEEP_LOOPS)
    return tvm.target.Target(description)


def gpu_target(compiler: Compiler) -> tvm.target.Target:
    """The TVM target of a GPU, with that of its host. Raises ScheduleError for a compiler of no GPU."""
    if compiler.kind not in LIMITS:
        raise ScheduleError(f"{compiler.kind} compiles for no GPU", f"choose {' or '.join(LIMITS)}")
    threads, warp, shared = LIMITS[compiler.kind]
    description: dict[str, object] = {
        "kind": compiler.kind,
        "max_threads_per_block": threads,
        "max_num_threads": threads,
        "thread_warp_size": warp,
        "max_shared_memory_per_block": shared,
    }
    if compiler.kind == "cuda":
        description["arch"] = compiler.gpu_arch
    return tvm.target.Target(description, host=llvm_target(replace(compiler, kind="llvm")))
