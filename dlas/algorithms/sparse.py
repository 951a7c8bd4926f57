"""Sparse convolution: only the products with weights that are not zero, for the three algorithms.

One inner kernel serves them: a nonzero weight times a run of neighbouring inputs, added to a run of outputs.
What `runs` are read from is the algorithm. Roles are those of `blocks`; the loop over the nonzeros is inside
the block of role `sparse`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from dlas.algorithms.convolution import Conv2d, ceil_div
from dlas.algorithms.csr import check_csr
from dlas.algorithms.runs import (
    PACKS,
    RunTile,
    Source,
    extents,
    offset,
    padding,
    source,
    tile_counts,
    unpacking,
)
from dlas.values import Csr


@dataclass(frozen=True)
class SparseTile(RunTile):
    """The outputs that share one walk through the nonzeros of an output channel.

    parts: of the input channels, taken one after another so that what is read stays in the cache. chains:
    sums that are kept apart and added up in the end, where a single one would wait for itself.
    """

    parts: int = 1
    chains: int = 1


@dataclass(frozen=True)
class Packed:
    """The nonzeros of a filter: by part of the input channels, and within it by output channel.

    data: float32; offsets: int16 or int32, as from `offset`, within the part; indptr: int32 (parts, CO + 1),
    where each row starts. Rows are filled up with zeros to a multiple of the tile's chains.
    """

    data: np.ndarray
    offsets: np.ndarray
    indptr: np.ndarray


def pack(csr: Csr, conv: Conv2d, tile: SparseTile, algorithm: str) -> Packed:
    """Put the nonzeros of a filter into the order in which the kernel reads them, with their offsets.

    Raises ModelError for a malformed CSR, and ValueError for more than one part of a convolution with groups.
    """
    check_csr(csr, conv.CO, conv.CG * conv.KH * conv.KW)
    if conv.groups > 1 and tile.parts > 1:
        raise ValueError("the channels of a group are not taken in parts")
    planes, by_tap = source(conv, tile, algorithm).planes, algorithm == "gemm"
    per_part = ceil_div(conv.CG, tile.parts)
    c, kh, kw = np.unravel_index(csr.indices, (conv.CG, conv.KH, conv.KW))
    channel = np.repeat(np.arange(conv.CO), np.diff(csr.indptr))
    row = c // per_part * conv.CO + channel  # of the rows of all parts, one after another
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=tile.parts * conv.CO)
    starts = np.concatenate([[0], np.cumsum(-(-counts // tile.chains) * tile.chains)])
    places = starts[row[order]] + np.arange(len(row)) - (np.cumsum(counts) - counts)[row[order]]
    fits = per_part * planes.size <= np.iinfo("int16").max
    data = np.zeros(max(1, starts[-1]), "float32")
    offsets = np.zeros(len(data), "int16" if fits else "int32")
    data[places] = csr.data[order]
    offsets[places] = offset(conv, planes, by_tap, c % per_part, kh, kw)[order]
    rows = np.arange(tile.parts)[:, None] * conv.CO + np.arange(conv.CO + 1)
    return Packed(data, offsets, starts[rows].astype("int32"))


def conv2d(filter_: Packed | Csr, conv: Conv2d, tile: SparseTile, algorithm: str) -> tirx.PrimFunc:
    """A function of x (N, CI, H, W) and of data, columns and indptr (parts, CO + 1), to (N, CO, OH, OW).

    data and columns are as long as those of the filter, and at least 1. The columns of a plain Csr are its
    indices: where they point to is computed at run time. Raises ModelError where it is malformed, and
    ValueError for a tile that takes it in parts or chains, which only a packed filter has.
    """
    if isinstance(filter_, Csr):
        check_csr(filter_, conv.CO, conv.CG * conv.KH * conv.KW)
        if (tile.parts, tile.chains) != (1, 1):
            raise ValueError("a plain CSR has neither parts nor chains")
    made, is_plain = source(conv, tile, algorithm), isinstance(filter_, Csr)
    columns_dtype = "int32" if isinstance(filter_, Csr) else str(filter_.offsets.dtype)
    image, planes, height, width, pitch = made.image, made.planes, tile.height, tile.width, made.planes.pitch
    is_packed, is_padded = made.packed is not None, not image.is_input(conv)
    loops = planes.extents(conv.CI)
    N, CI, H, W, CO, OH, OW = extents(conv.N, conv.CI, conv.H, conv.W, conv.CO, conv.OH, conv.OW)
    down, across, parts, nonzeros = extents(*tile_counts(conv, tile), tile.parts, max(1, len(filter_.data)))
    chains, runs, length, size = extents(tile.chains, made.runs, made.length, made.size)
    one, image_size, source_size = extents(1, image.size, conv.CI * planes.size)
    (rows,) = extents(conv.CO + 1)
    name, pack_name = f"{'csr' if is_plain else 'csr_packed'}_{algorithm}", PACKS[algorithm]
    is_one_sum = tile.parts == 1
    axes = "SSSSSS" if is_one_sum else "SSSSSR"
    pad, read_packed = padding(conv, image), _pack(made, conv, tile, algorithm)
    unpack = unpacking(conv, tile, made)

    def at(o: Any, y: Any, x: Any, k: Any, column: Any) -> Any:
        """Where in its source a tile reads what it multiplies with a column of output channel o."""
        start = k * (ceil_div(conv.CG, tile.parts) * planes.size) + o // conv.OG * (conv.CG * planes.size)
        if not is_packed:
            start += y * (height * pitch) + x * width
        if not is_plain:
            return start + column
        c, tap = tirx.indexdiv(column, conv.KH * conv.KW), tirx.indexmod(column, conv.KH * conv.KW)
        kh, kw = tirx.indexdiv(tap, conv.KW), tirx.indexmod(tap, conv.KW)
        return start + offset(conv, planes, algorithm == "gemm", c, kh, kw)

    def read(inputs: Any, n: Any, y: Any, x: Any, element: Any) -> Any:
        return inputs[n, y, x, element] if is_packed else _row(inputs, n, element)

    def region(inputs: Any, n: Any, y: Any, x: Any) -> Any:
        if is_packed:
            return inputs[n, y, x, 0:source_size]
        return inputs[n, 0:CI, 0:image_size] if is_padded else inputs[n, 0:CI, 0:H, 0:W]

    def begin(indptr: Any, k: Any, o: Any) -> Any:
        return indptr[k, o].astype("int64")

    def total(sums: Any, r: Any, i: Any) -> Any:
        return reduce(add, (sums[c, r, i] for c in range(tile.chains)))

    @T.prim_func(s_tir=True)
    def function(
        x: T.Buffer((N, CI, H, W), "float32"),
        data: T.Buffer((nonzeros,), "float32"),
        columns: T.Buffer((nonzeros,), columns_dtype),
        indptr: T.Buffer((parts, rows), "int32"),
        out: T.Buffer((N, CO, OH, OW), "float32"),
    ) -> None:
        T.func_attr({"op_pattern": 4, "tirx.noalias": True})  # kOutEWiseFusable of tvm/relax/op_attr_types.h
        padded = T.sblock_alloc_buffer((N, CI, image_size)) if is_padded else x
        inputs = T.sblock_alloc_buffer((N, down, across, source_size)) if is_packed else padded
        tiles = T.sblock_alloc_buffer((N, CO, down, across, size))
        if is_padded:
            pad(x, padded)
        if is_packed:
            for n, y, x_, e in T.grid(N, down, across, source_size):
                with T.sblock(pack_name):
                    vn, vy, vx, ve = T.axis.remap("SSSS", [n, y, x_, e])
                    T.reads(padded[vn, 0:CI, 0:image_size] if is_padded else x[vn, 0:CI, 0:H, 0:W])
                    T.writes(inputs[vn, vy, vx, ve])
                    T.sblock_attr({"role": "pack", "loops": loops})
                    inputs[vn, vy, vx, ve] = read_packed(padded, vn, vy, vx, ve)
        for n, o, y, x_, t, k in T.grid(N, CO, down, across, one, parts):
            with T.sblock(name):
                # vt is there for compute_at, which finds the tile in what the block writes.
                vn, vo, vy, vx, vt, vk = T.axis.remap(axes, [n, o, y, x_, t, k])
                T.reads(
                    region(inputs, vn, vy, vx), data[0:nonzeros], columns[0:nonzeros], indptr[vk, vo : vo + 2]
                )
                T.writes(tiles[vn, vo, vy, vx, vt * size : vt * size + size])
                T.sblock_attr({"role": "sparse", "height": height, "width": width})
                sums = T.sblock_alloc_buffer((chains, runs, length), scope="local")
                if not is_one_sum:
                    with T.init():
                        for r, i in T.grid(runs, length):
                            with T.sblock("zero"):
                                vr, vi = T.axis.remap("SS", [r, i])
                                tiles[vn, vo, vy, vx, vt * size + vr * length + vi] = T.float32(0)
                for c, r, i in T.grid(chains, runs, length):
                    with T.sblock("start"):
                        vc, vr, vi = T.axis.remap("SSS", [c, r, i])
                        sums[vc, vr, vi] = T.float32(0)
                for j in range((begin(indptr, vk, vo + 1) - begin(indptr, vk, vo)) // chains):
                    with T.sblock("nonzeros"):
                        vj = T.axis.opaque((begin(indptr, vk, vo + 1) - begin(indptr, vk, vo)) // chains, j)
                        for c, r, i in T.grid(chains, runs, length):
                            with T.sblock("sum"):
                                vc, vr, vi = T.axis.remap("SSS", [c, r, i])
                                # For one nonzero all sums are independent. That each reads itself is left
                                # out: it would make this block a reduction, which it is only over vj. Of what
                                # else is read, the block around it tells.
                                T.reads(data[0:nonzeros], columns[0:nonzeros])
                                T.writes(sums[vc, vr, vi])
                                sums[vc, vr, vi] = sums[vc, vr, vi] + data[
                                    begin(indptr, vk, vo) + vj * chains + vc
                                ] * read(
                                    inputs,
                                    vn,
                                    vy,
                                    vx,
                                    at(
                                        vo,
                                        vy,
                                        vx,
                                        vk,
                                        T.int64(columns[begin(indptr, vk, vo) + vj * chains + vc]),
                                    )
                                    + vr * pitch
                                    + vi,
                                )
                for r, i in T.grid(runs, length):
                    with T.sblock("finish"):
                        vr, vi = T.axis.remap("SS", [r, i])
                        T.reads(sums[0:chains, vr, vi])  # and what it writes, as above
                        T.writes(tiles[vn, vo, vy, vx, vt * size + vr * length + vi])
                        tiles[vn, vo, vy, vx, vt * size + vr * length + vi] = (
                            total(sums, vr, vi)
                            if is_one_sum
                            else tiles[vn, vo, vy, vx, vt * size + vr * length + vi] + total(sums, vr, vi)
                        )
        unpack(tiles, out)

    return function


def _row(image: Any, n: Any, element: Any) -> Any:
    """An element of all channels of an image, as one row: arrays are contiguous."""
    return image[n, 0, element] if len(image.shape) == 3 else image[n, 0, 0, element]


def _pack(made: Source, conv: Conv2d, tile: SparseTile, algorithm: str) -> Callable[..., Any]:
    """What is at an element of a tile's own source: of the padded image."""
    image, planes = made.image, made.planes

    def read(padded: Any, n: Any, y: Any, x: Any, element: Any) -> Any:
        c, a, b, row, column = planes.position(element)
        row = tirx.min(y * tile.height + row, conv.OH - 1 if algorithm == "gemm" else image.rows - 1)
        column = x * tile.width + column
        if algorithm == "gemm":
            return _row(padded, n, offset(conv, image, False, c, a, b) + row * image.pitch + column)
        return _row(padded, n, image.index(c, a, b, row, column))

    return read
