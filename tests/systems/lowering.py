"""One convolution through the compiler, for tests."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from dlas.algorithms.convolution import Conv2d
from dlas.systems import passes
from dlas.systems.export import generate
from dlas.values import Compiler

AVX2 = Compiler("llvm", "x86_64", "x86_64-linux-gnu", "x86-64-v3", (), 8, 16, 1 << 20, "g++")
AVX512 = Compiler(
    "llvm", "x86_64", "x86_64-linux-gnu", "x86-64-v4", ("-prefer-256-bit",), 16, 32, 1 << 20, "g++"
)
NEON = Compiler(
    "llvm", "aarch64", "aarch64-linux-gnu", "cortex-a73", ("+neon",), 4, 32, 1 << 19, "aarch64-linux-gnu-g++"
)


def relax_conv2d(conv: Conv2d, weight: np.ndarray, epilogue: str = "", between: bool = False) -> tvm.IRModule:
    """A Relax module of one convolution, with or without a bias and a ReLU after it.

    between: two kernels that compute nothing are around it, so that it neither reads the input nor writes the
    output.
    """
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((conv.N, conv.CI, conv.H, conv.W), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.max_pool2d(x)) if between else x
            y = builder.emit(
                relax.op.nn.conv2d(
                    y, relax.const(weight), conv.stride, conv.padding, conv.dilation, conv.groups
                )
            )
            if epilogue:
                bias = relax.const(np.arange(conv.CO, dtype="float32").reshape(1, -1, 1, 1) / conv.CO - 0.5)
                y = builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(y, bias))))
            y = builder.emit(relax.op.nn.max_pool2d(y)) if between else y
            out = builder.emit_output(y)
        builder.emit_func_output(out)
    return builder.get()


def compile_and_run(
    mod: tvm.IRModule,
    algorithm: str,
    schedule: str,
    x: np.ndarray,
    compiler: Compiler = AVX2,
    precision: str = "fp32",
    format: str = "dense",
) -> np.ndarray:
    lowered, _ = passes.lower(mod, algorithm, schedule, compiler, precision, format)
    machine = relax.VirtualMachine(generate(lowered, compiler), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()
