"""The kernel of one convolution: its function, not scheduled yet, and its filter as that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from tvm import te, tirx

from dlas.algorithms import blocks, depthwise, direct, ell, gemm, spatial_pack
from dlas.algorithms.convolution import Tile
from dlas.algorithms.csr import pack_csr
from dlas.algorithms.runs import RunTile
from dlas.algorithms.sparse import SparseTile
from dlas.systems import codegen, sparse, tiles
from dlas.systems.autoschedule.workload import Workload
from dlas.values import Compiler

ALGORITHMS: Mapping[str, ModuleType] = {"direct": direct, "gemm": gemm, "spatial_pack": spatial_pack}
DEPTHWISE = "depthwise"  # the algorithm of a workload where each output channel reads one input channel
ELL_TILE = (8, 16)  # rows and columns that spatial pack packs together: as many as a block has threads
ELL_BUCKETS = 3  # more of them cut little off what fills rows up, and each is a kernel
OUT_ELEMENTWISE_FUSABLE = 4  # kOutEWiseFusable of tvm/relax/op_attr_types.h


class Kernel(NamedTuple):
    """function takes x and the constants and gives a tensor of this shape, all but indices float32."""

    function: tirx.PrimFunc
    constants: tuple[np.ndarray, ...]
    name: str
    shape: tuple[int, ...]


def make(
    weight: np.ndarray, workload: Workload, compiler: Compiler, extents: Mapping[str, int] | None = None
) -> Kernel:
    """The kernel of a convolution with this filter, (CO, CI/groups, KH, KW), in the workload's algorithm.

    extents: of the tile, by name; without them it is chosen here.
    """
    conv, format = workload.conv, workload.format
    if compiler.is_gpu:
        return _on_gpu(weight, workload, compiler)
    if format == "blocked":
        return _blocked(weight, workload, compiler, extents)
    shape = (conv.N, conv.CO, conv.OH, conv.OW)
    if conv.depthwise:
        run = RunTile(**extents) if extents else tiles.choose_depthwise(conv, compiler)
        return Kernel(depthwise.conv2d(conv, run), (weight,), f"conv2d_{DEPTHWISE}", shape)
    name = f"conv2d_{workload.algorithm}"
    if format != "dense":
        cut = SparseTile(**extents) if extents else None
        function, arrays = sparse.convolution(weight, conv, workload.algorithm, format, compiler, cut)
        return Kernel(function, arrays, f"conv2d_{format}_{workload.algorithm}", shape)
    tile = Tile(**extents) if extents else tiles.choose(conv, compiler)
    packed = blocks.pack_filter(weight, conv, tile.lanes)
    function = _function(
        ALGORITHMS[workload.algorithm].conv2d, (conv.N, conv.CI, conv.H, conv.W), packed, conv, tile
    )
    return Kernel(function, (packed,), name, shape)


def input_shape(workload: Workload, compiler: Compiler) -> tuple[int, ...]:
    """Of what the kernel of a workload reads."""
    conv, block = workload.conv, compiler.vector_lanes
    if workload.format == "blocked" and (conv.depthwise or conv.CG % block == 0):
        return (conv.N, conv.CI // block, conv.H, conv.W, block)
    return (conv.N, conv.CI, conv.H, conv.W)


def _blocked(
    weight: np.ndarray, workload: Workload, compiler: Compiler, extents: Mapping[str, int] | None
) -> Kernel:
    conv, block = workload.conv, compiler.vector_lanes
    shape, x = (conv.N, conv.CO // block, conv.OH, conv.OW, block), input_shape(workload, compiler)
    if conv.depthwise:
        tile = Tile(**extents) if extents else tiles.choose_blocked_depthwise(conv, compiler)
        packed = depthwise.pack_filter(weight, block)
        function = _function(depthwise.conv2d_blocked, x, packed, conv, tile)
        return Kernel(function, (packed,), f"conv2d_{DEPTHWISE}", shape)
    tile = Tile(**extents) if extents else tiles.choose_blocked(conv, compiler)
    packed = blocks.pack_filter(weight, conv, tile.lanes, block if len(x) > blocks.NCHW_AXES else 0)
    function = _function(ALGORITHMS[workload.algorithm].conv2d, x, packed, conv, tile, block)
    return Kernel(function, (packed,), f"conv2d_{workload.algorithm}", shape)


def _on_gpu(weight: np.ndarray, workload: Workload, compiler: Compiler) -> Kernel:
    conv = workload.conv
    if workload.format == "ell" and not conv.depthwise:
        return _in_ell(weight, workload)
    tile = tiles.choose_gpu(conv, codegen.threads(compiler))
    x, shape = (conv.N, conv.CI, conv.H, conv.W), (conv.N, conv.CO, conv.OH, conv.OW)
    packed = blocks.pack_filter(weight, conv, tile.lanes)
    name = DEPTHWISE if conv.depthwise else workload.algorithm
    conv2d = depthwise.conv2d_tiles if conv.depthwise else ALGORITHMS[workload.algorithm].conv2d
    return Kernel(_function(conv2d, x, packed, conv, tile), (packed,), f"conv2d_{name}", shape)


def _in_ell(weight: np.ndarray, workload: Workload) -> Kernel:
    conv, algorithm = workload.conv, workload.algorithm
    tile = (
        RunTile(min(ELL_TILE[0], conv.OH), min(ELL_TILE[1], conv.OW), 1)
        if algorithm == "spatial_pack"
        else None
    )
    packed = ell.pack_ell(pack_csr(weight), ELL_BUCKETS)
    shape = (conv.N, conv.CO, conv.OH, conv.OW)
    function = ell.conv2d(packed, conv, algorithm, tile)
    return Kernel(function, ell.arrays(packed, conv, algorithm, tile), f"conv2d_ell_{algorithm}", shape)


def _function(
    conv2d: Callable[..., te.Tensor], x_shape: tuple[int, ...], packed: np.ndarray, *how: Any
) -> tirx.PrimFunc:
    """A function of x and weight, ready to be fused with the element-wise operators after it."""
    x, weight = te.placeholder(x_shape, name="x"), te.placeholder(packed.shape, name="weight")
    function = te.create_prim_func([x, weight, conv2d(x, weight, *how)], index_dtype_override="int64")
    attrs = {"op_pattern": OUT_ELEMENTWISE_FUSABLE, "tirx.noalias": True}
    return function.with_attr(attrs)
