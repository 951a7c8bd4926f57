"""A workload as a network of one convolution: what is compiled and run of each variant in a search."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np
import tvm
from tvm import relax, tirx

from dlas.algorithms import reference
from dlas.algorithms.blocks import NCHW_AXES, to_blocks
from dlas.systems import kernels, layout, passes
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.systems.export import export
from dlas.values import Compiler


def prepare(workload: Workload, compiler: Compiler, folder: Path) -> None:
    """Write input.npy and oracle.npy, float32: what the network is given, and what it must compute."""
    x, weight, bias = arrays(workload)
    conv, block = workload.conv, compiler.vector_lanes
    output = np.maximum(reference.conv2d(x, weight, conv) + bias[:, None, None], 0)
    is_blocked = workload.format == "blocked"
    reads_blocks = len(kernels.input_shape(workload, compiler)) > NCHW_AXES
    np.save(folder / "input.npy", to_blocks(x, block) if reads_blocks else x)
    np.save(folder / "oracle.npy", (to_blocks(output, block) if is_blocked else output).astype("float32"))


def build(workload: Workload, compiler: Compiler, choice: Choice, path: Path) -> float:
    """Compile the network with the variant as a shared library; returns the seconds that it took.

    Raises ScheduleError or BuildError.
    """
    started = time.monotonic()
    export(lower(workload, compiler, choice), compiler, path)
    return time.monotonic() - started


def function(workload: Workload, compiler: Compiler, choice: Choice) -> tirx.PrimFunc:
    """The network's only kernel with the variant's tile, not scheduled."""
    mod = passes.fuse(
        network(workload, compiler), _algorithm(workload), compiler, workload.format, {workload.id: choice}
    )
    [kernel] = [each for each in mod.functions.values() if isinstance(each, tirx.PrimFunc)]
    return kernel


def lower(workload: Workload, compiler: Compiler, choice: Choice) -> tvm.IRModule:
    """The network with the variant, scheduled. Raises ScheduleError."""
    mod, how = network(workload, compiler), (passes.TUNED, compiler, "fp32", workload.format)
    return passes.lower(mod, _algorithm(workload), *how, {workload.id: choice})[0]


def _algorithm(workload: Workload) -> str:
    """A cell's, in which the workload is what it is."""
    return "direct" if workload.conv.depthwise else workload.algorithm


@lru_cache(maxsize=4)  # a search has many variants of one
def network(workload: Workload, compiler: Compiler) -> tvm.IRModule:
    """The convolution, a bias and a ReLU in Relax; its activations lie as the workload's format has them."""
    _, weight, bias = arrays(workload)
    conv, block = workload.conv, compiler.vector_lanes
    shape = kernels.input_shape(workload, compiler)
    is_blocked = workload.format == "blocked"
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = relax.op.nn.conv2d(
                x,
                relax.const(weight),
                strides=conv.stride,
                padding=conv.padding,
                dilation=conv.dilation,
                groups=conv.groups,
                data_layout=layout.name(block if len(shape) > NCHW_AXES else 0),
                kernel_layout="OIHW",
                out_layout=layout.name(block if is_blocked else 0),
            )
            y = builder.emit(y)
            shaped = bias.reshape(1, -1, 1, 1)
            y = builder.emit(relax.op.add(y, relax.const(to_blocks(shaped, block) if is_blocked else shaped)))
            y = builder.emit_output(relax.op.nn.relu(y))
        builder.emit_func_output(y)
    return builder.get()


@lru_cache(maxsize=1)
def arrays(workload: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, filter and bias, float32: noise that is the same each time; of the filter, so much is zero."""
    conv = workload.conv
    noise = np.random.default_rng(crc32(workload.id.encode()))
    x = noise.standard_normal((conv.N, conv.CI, conv.H, conv.W), "float32")
    weight = noise.standard_normal((conv.CO, conv.CG, conv.KH, conv.KW), "float32")
    weight.flat[noise.permutation(weight.size)[: weight.size * workload.zero_percent // 100]] = 0
    return x, weight, noise.standard_normal(conv.CO, "float32")
