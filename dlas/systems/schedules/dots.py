"""The dot products of processors, as intrinsics that blocks of `algorithms.integer` take."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as once
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from dlas.algorithms.integer import Dot
from dlas.values import Compiler

VNNI = Dot(
    "vnni_512",
    lanes=16,
    taps=4,
    activations="uint8",
    dtype="uint8",
    weight_dtype="int8",
    instructions="vpdpbusd",
)
VNNI_256 = Dot(
    "vnni_256",
    lanes=8,
    taps=4,
    activations="uint8",
    dtype="uint8",
    weight_dtype="int8",
    instructions="vpdpbusd",
)
# vpmaddubsw, which multiplies bytes, saturates: its sums of two products can be wrong. 16-bit ones cannot.
MADD = Dot(
    "madd_512",
    lanes=16,
    taps=2,
    activations="uint8",
    dtype="int16",
    weight_dtype="int16",
    instructions="vpmaddwd",
)
MADD_256 = Dot(
    "madd_256",
    lanes=8,
    taps=2,
    activations="uint8",
    dtype="int16",
    weight_dtype="int16",
    instructions="vpmaddwd",
)
NEON = Dot(
    "neon",
    lanes=4,
    taps=4,
    activations="int8",
    dtype="int8",
    weight_dtype="int8",
    instructions="smull, addp, sadalp",
    weight_registers=2,  # of 64 bits each: smull takes half a register
    other_registers=9,  # products and their pairwise sums; with fewer, sums went to the stack
)


def choose(compiler: Compiler) -> Dot:
    """The dot product of a CPU, by its features."""
    if compiler.arch == "aarch64":
        return NEON
    wide = compiler.vector_lanes >= MADD.lanes
    if wide and "+avx512vnni" in compiler.mattr:
        return VNNI
    if "+avxvnni" in compiler.mattr:
        return VNNI_256
    return MADD if wide else MADD_256


@once
def register(dot: Dot) -> str:
    """Make the intrinsic of a dot product known to TVM; returns its name."""
    name = f"dlas_{dot.name}"
    TensorIntrin.register(name, _description(dot), _IMPLEMENTATIONS[dot.name](dot), override=True)
    return name


def _description(dot: Dot) -> Any:
    """C (lanes,) += B (lanes, taps) times A (taps,), in int32."""
    lanes, taps = dot.lanes, dot.taps

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((taps,), dot.dtype, offset_factor=1),
        B: T.Buffer((lanes, taps), dot.weight_dtype, offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:taps], B[0:lanes, 0:taps])
            T.writes(C[0:lanes])
            for lane in T.serial(0, lanes):
                for tap in T.serial(0, taps):
                    with T.sblock("dot"):
                        i, k = T.axis.remap("SR", [lane, tap])
                        C[i] = C[i] + T.cast(A[k], "int32") * T.cast(B[i, k], "int32")

    return description


def _vnni(dot: Dot) -> Any:
    """vpdpbusd: four products of unsigned with signed bytes, added to each int32 lane."""
    lanes, sums, octets = dot.lanes, f"int32x{dot.lanes}", f"int8x{4 * dot.lanes}"
    intrinsic = f"llvm.x86.avx512.vpdpbusd.{32 * dot.lanes}"

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            quad = T.reinterpret(A.vload([0], "uint8x4"), dtype="int32")
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(intrinsic),
                C.vload([0], dtype=sums),
                T.reinterpret(T.broadcast(quad, lanes), dtype=octets),
                B.vload([0, 0], dtype=octets),
                dtype=sums,
            )

    return implementation


def _madd(dot: Dot) -> Any:
    """vpmaddwd: two products of 16-bit integers, added up, for each int32 lane."""
    lanes, sums, words = dot.lanes, f"int32x{dot.lanes}", f"int16x{2 * dot.lanes}"
    intrinsic = "llvm.x86.avx512.pmaddw.d.512" if dot.lanes == MADD.lanes else "llvm.x86.avx2.pmadd.wd"

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((2,), "int16", offset_factor=1),
        B: T.Buffer((lanes, 2), "int16", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            pair = T.reinterpret(A.vload([0], "int16x2"), dtype="int32")
            C[T.ramp(T.int32(0), 1, lanes)] = C.vload([0], dtype=sums) + T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(intrinsic),
                T.reinterpret(T.broadcast(pair, lanes), dtype=words),
                B.vload([0, 0], dtype=words),
                dtype=sums,
            )

    return implementation


def _neon(dot: Dot) -> Any:
    """smull, addp, sadalp: a weight is never -128, so two products fit 16 bits."""

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((4,), "int8", offset_factor=1),
        B: T.Buffer((4, 4), "int8", offset_factor=1),
        C: T.Buffer((4,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:4], A[0:4], B[0:4, 0:4])
            T.writes(C[0:4])
            quad = T.reinterpret(A.vload([0], "int8x4"), dtype="int32")
            octets = T.reinterpret(T.broadcast(quad, 2), dtype="int8x8")
            low = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.smull.v8i16"),
                octets,
                B.vload([0, 0], dtype="int8x8"),
                dtype="int16x8",
            )
            high = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.smull.v8i16"),
                octets,
                B.vload([2, 0], dtype="int8x8"),
                dtype="int16x8",
            )
            pairs = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.addp.v8i16"), low, high, dtype="int16x8"
            )
            C[T.ramp(T.int32(0), 1, 4)] = C.vload([0], dtype="int32x4") + T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.saddlp.v4i32.v8i16"), pairs, dtype="int32x4"
            )

    return implementation


_IMPLEMENTATIONS: dict[str, Callable[[Dot], Any]] = {
    VNNI.name: _vnni,
    VNNI_256.name: _vnni,
    MADD.name: _madd,
    MADD_256.name: _madd,
    NEON.name: _neon,
}
