"""Operators as kernels: convolutions in the cell's algorithm, and the sigmoid in vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import tvm
from tvm import relax, te, tirx

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d
from dlas.systems import kernels, sparse
from dlas.systems.autoschedule import space
from dlas.systems.autoschedule.workload import Choice, Workload
from dlas.systems.kernels import DEPTHWISE, Kernel
from dlas.values import Compiler

_CONV2D = tvm.ir.Op.get("relax.nn.conv2d")


def legalize_conv2d(
    algorithm: str, compiler: Compiler, format: str, choices: Mapping[str, Choice]
) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """The rule that replaces relax.nn.conv2d by the cell's algorithm, its filter packed on the host.

    choices: by workload, of those that are tuned.
    """

    def replace(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        x, weight = call.args
        if not isinstance(weight, tvm.ir.GenericConst):
            return call.op.get_attr("FLegalize")(builder, call)
        workload = workload_of(call, algorithm, format, compiler)
        choice = choices.get(workload.id)
        tile = None if choice is None else space.tile_of(choice)
        kernel = kernels.make(weight.value.numpy(), workload, compiler, tile)
        if choice is not None:
            kernel = kernel._replace(function=space.mark(kernel.function, choice))
        return call_kernel(builder, kernel, x)

    return replace


def call_kernel(builder: relax.BlockBuilder, kernel: Kernel, x: relax.Expr) -> relax.Call:
    """A call of a kernel, ready to be fused with the element-wise operators after it."""
    # What is exported stays, also once it is fused into another.
    function = kernel.function.without_attr("global_symbol")
    shape = relax.TensorType(kernel.shape, "float32")
    arguments = [x, *map(relax.const, kernel.constants)]
    return relax.call_tir(builder.add_func(function, kernel.name), arguments, shape)


def workloads(main: relax.Function, algorithm: str, format: str, compiler: Compiler) -> list[Workload]:
    """Of each convolution with a constant filter, in order."""
    values = [binding.value for block in main.body.blocks for binding in block.bindings]
    calls = [value for value in values if isinstance(value, relax.Call) and value.op == _CONV2D]
    return [
        workload_of(call, algorithm, format, compiler)
        for call in calls
        if isinstance(call.args[1], tvm.ir.GenericConst)
    ]


def workload_of(call: relax.Call, algorithm: str, format: str, compiler: Compiler) -> Workload:
    """What a relax.nn.conv2d call with a constant filter computes, of a cell's algorithm and format."""
    conv, weight = geometry(call), call.args[1].value.numpy()
    if len(call.ty.shape) > blocks.NCHW_AXES:
        return Workload(conv, DEPTHWISE if conv.depthwise else algorithm, "blocked")
    if conv.depthwise:
        return Workload(conv, DEPTHWISE, "dense")
    if format == "auto":
        format = (
            sparse.choose_gpu_format(weight)
            if compiler.is_gpu
            else sparse.choose_format(weight, conv, compiler, algorithm)
        )
    if format in ("dense", "blocked"):  # blocks do not pay where a map is a single place
        return Workload(conv, algorithm, "dense")
    zeros = 1 - np.count_nonzero(weight) / weight.size
    return Workload(conv, algorithm, format, round(100 * zeros))


def geometry(call: relax.Call) -> Conv2d:
    """The convolution that a relax.nn.conv2d call makes."""
    attrs = call.attrs
    N, CI, H, W, *lanes = (int(extent) for extent in call.args[0].ty.shape)
    CO, _, KH, KW = (int(extent) for extent in call.args[1].ty.shape)
    stride, padding, dilation = (tuple(map(int, a)) for a in (attrs.strides, attrs.padding, attrs.dilation))
    channels = CI * prod(lanes)
    return Conv2d(N, channels, H, W, CO, KH, KW, stride, padding, dilation, int(attrs.groups))  # type: ignore[arg-type]


def legalize_sigmoid(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """1 / (1 + exp(-x)) in float32, with an exponential that LLVM makes vectors of.

    Its own calls the C library for each element: that was half of the time of EfficientNetB0.
    """
    if call.args[0].ty.dtype != "float32":
        return call.op.get_attr("FLegalize")(builder, call)

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: 1.0 / (1.0 + exponential(-x[i])), name="sigmoid")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="sigmoid")


def exponential(x: tirx.PrimExpr) -> tirx.PrimExpr:
    """exp(x) of a float32, to about two units in the last place: 2^n times a polynomial.

    The polynomial is the expf of Moshier's Cephes library (1984 to 1992). Where exp overflows or is
    subnormal, it is as at the last x where it is neither.
    """
    x = tirx.max(tirx.min(x, _const(88.0)), _const(-87.0))
    n = tirx.floor(x * _const(1.44269504088896341) + _const(0.5))
    rest = (
        x - n * _const(0.693359375) + n * _const(2.12194440e-4)
    )  # ln 2 in two parts, the first of them exact
    value = _const(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        value = value * rest + _const(coefficient)
    power = tirx.reinterpret("float32", (tirx.Cast("int32", n) + 127) << 23)
    return (value * rest * rest + rest + _const(1.0)) * power


def _const(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float32")
