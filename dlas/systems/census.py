"""What is in a network: its convolutions, their zeros, what became of them, and how many bytes it ships."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import tvm
from tvm import relax, s_tir, tirx

from dlas.algorithms.blocks import NCHW_AXES
from dlas.systems.schedules import integer, roles

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose")
_CONVOLUTION_OPS = tuple(tvm.ir.Op.get(f"relax.nn.conv{axes}d") for axes in (1, 2, 3))
_QUANTIZE = tvm.ir.Op.get("relax.quantize")
_DEQUANTIZE = tvm.ir.Op.get("relax.dequantize")


class Sparsity(NamedTuple):
    """Of convolutions with constant weights: the share of zero weights, and of multiply-adds with one."""

    weights_fraction: float
    macs_fraction: float


@dataclass(frozen=True)
class Operators:
    """What became of a network's convolutions.

    as_asked ran the algorithm of the cell in its format, integer sum integers, sparse are computed from CSR,
    tuned have a schedule that a search chose. The others are as in `Artifact`.
    """

    total: int
    as_asked: int
    depthwise: int
    integer: int
    fallbacks: tuple[str, ...]
    sparse: int = 0
    tuned: int = 0
    weight_sparsity_fraction: float = 0.0
    mac_sparsity_fraction: float = 0.0
    arithmetic: str = ""
    layout: str = "nchw"
    weight_bytes: int = 0
    dense_weight_bytes: int = 0


def find_convolutions(mod: tvm.IRModule) -> list[str]:
    """The kinds of convolution in a Relax module, one entry per call."""
    found: list[str] = []

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            kind = str(expr.op.name).removeprefix("relax.nn.")
            if kind in CONVOLUTIONS:
                found.append(kind)

    relax.analysis.post_order_visit(mod["main"], visit)
    return found


def measure_sparsity(mod: tvm.IRModule) -> Sparsity:
    """The zeros of a module's convolutions, before it is lowered; 0 without constant weights."""
    values = {binding.var: binding.value for block in mod["main"].body.blocks for binding in block.bindings}
    zeros = weights = zero_macs = macs = 0
    for value in values.values():
        if not isinstance(value, relax.Call) or value.op not in _CONVOLUTION_OPS:
            continue
        weight = value.args[1]
        zero_point = 0
        made = values.get(weight) if isinstance(weight, relax.Var) else None
        if isinstance(made, relax.Call) and made.op == _DEQUANTIZE:
            weight, zero_point = made.args[0], made.args[2].value.numpy()
        if isinstance(weight, tvm.ir.GenericConst):
            array = weight.value.numpy()
            axes = (-1, *[1] * (array.ndim - 1))
            zero = np.broadcast_to(np.reshape(zero_point, axes), array.shape)
            found, (batch, _, *places) = int((array == zero).sum()), map(int, value.ty.shape)
            uses = batch * prod(places)  # each weight is used once for each place of its output channel
            zeros, weights = zeros + found, weights + array.size
            zero_macs, macs = zero_macs + found * uses, macs + array.size * uses
    return Sparsity(zeros / weights, zero_macs / macs) if weights else Sparsity(0.0, 0.0)


def count_constants(mod: tvm.IRModule) -> tuple[int, int]:
    """How many parameters main has among its constants, and the bytes of all of these, each counted once.

    Scales and zero points, by which a quantized network says what its parameters are, are none.
    """
    found: dict[Any, np.ndarray] = {}
    scales: set[Any] = set()

    def visit(expr: Any) -> None:
        if isinstance(expr, tvm.ir.GenericConst):
            found[expr.value] = expr.value.numpy()
        elif isinstance(expr, relax.Call) and expr.op in (_QUANTIZE, _DEQUANTIZE):
            scales.update(arg.value for arg in expr.args[1:] if isinstance(arg, tvm.ir.GenericConst))

    relax.analysis.post_order_visit(mod["main"], visit)
    parameters = sum(array.size for value, array in found.items() if value not in scales)
    return parameters, sum(array.nbytes for array in found.values())


def called_functions(mod: tvm.IRModule) -> list[str]:
    """The names of the functions that main calls, one entry per call, in order."""
    called: list[str] = []

    def visit(expr: Any) -> None:
        if (
            isinstance(expr, relax.Call)
            and isinstance(expr.op, tvm.ir.Op)
            and expr.op.name == "relax.call_tir"
        ):
            called.append(str(expr.args[0].name_hint))

    relax.analysis.post_order_visit(mod["main"], visit)
    return called


def count_operators(
    mod: tvm.IRModule,
    algorithm: str,
    convolutions: list[str],
    wants_integers: bool = False,
    format: str = "dense",
) -> Operators:
    """Count what the lowered functions compute, by their blocks and not by their names.

    wants_integers: a convolution of float32 is then not as asked. format: of the cell; auto is content with
    dense, csr_packed and ell, and of blocked a convolution that stays NCHW is not as asked.
    """
    called = called_functions(mod)
    blocks_by_name = {name: convolution_blocks(mod[name]) for name in set(called)}
    kinds = [kind for name in called for kind in blocks_by_name[name]]
    asked = {
        "dense": [algorithm],
        "blocked": [algorithm],
        "auto": [algorithm, f"csr_packed_{algorithm}", f"ell_{algorithm}"],
    }.get(format, [f"{format}_{algorithm}"])
    plain = [name for name in called if format == "blocked" and _gives_plain_maps(mod[name])]
    plain_kinds = [kind for name in plain for kind in blocks_by_name[name]]
    computed = sum(kind in asked for kind in kinds)
    as_depthwise = kinds.count("depthwise")
    summed = [name for name in called if integer.sums_integers(mod[name])]
    integer_kinds = [kind for name in summed for kind in blocks_by_name[name]]
    of_integers = sum(kind in (algorithm, "depthwise") for kind in integer_kinds)
    reasons = [f"{kind}: TVM's own" for kind in convolutions if kind != "conv2d"]
    if wants_integers:
        reasons += ["conv2d: float32, its input or weights are not 8-bit integers"] * (
            computed + as_depthwise - of_integers
        )
    missing = len(convolutions) - computed - as_depthwise
    reasons += ["conv2d: its filter is not a constant"] * (
        missing - sum(kind != "conv2d" for kind in convolutions)
    )
    reasons += ["conv2d: its channels do not fill blocks"] * len(plain_kinds)
    return Operators(
        total=len(convolutions),
        as_asked=integer_kinds.count(algorithm)
        if wants_integers
        else computed - plain_kinds.count(algorithm),
        depthwise=as_depthwise,
        integer=of_integers,
        fallbacks=tuple(reasons),
        sparse=sum(kind.startswith(("csr", "ell")) for kind in kinds),
    )


def _gives_plain_maps(func: tirx.PrimFunc) -> bool:
    """Whether a function sums a convolution whose output lies as NCHW, and is more than a single place."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    sums = roles.find(sch, *roles.CONVOLUTION_ROLES)
    readers = [roles.extents(sch, reader) for block in sums for reader in sch.get_consumers(block)]
    return any(len(extents) == NCHW_AXES and prod(extents[2:]) > 1 for extents in readers)


def convolution_blocks(func: tirx.PrimFunc) -> list[str]:
    """The names of a function's blocks that sum a convolution: direct, csr_gemm, depthwise and the like."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    names = [roles.name(sch, block) for block in roles.find(sch, *roles.CONVOLUTION_ROLES)]
    # A convolution in ELL has a block for each of its buckets, numbered.
    return [name.removesuffix("_0") for name in names if not re.fullmatch(r"ell_.*_[1-9]\d*", name)]
