"""Convolution of 8-bit integers, in NHWC: the three algorithms over dot products of a few channels at a time.

What differs from float32 (`blocks`) is the layout, because processors add up products of neighbouring
bytes, and the padding, because zero is the zero point. Roles are as in `blocks`, but

    accumulate  (N, block, OH/height, OW/width, height, width, vectors, lanes): lanes is one register of int32
    unpack      the tiles put back to NHWC
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile, ceil_div, in_extent


@dataclass(frozen=True)
class Dot:
    """What a processor multiplies and adds at once: `taps` products into each of `lanes` int32 sums.

    activations: what inputs are in memory, uint8 or int8; dtype: what they are widened to before.
    weight_dtype: of the packed filter. instructions: their names. weight_registers: what a vector of weights
    takes; other_registers: what else must have a register beside sums and weights.
    """

    name: str
    lanes: int
    taps: int
    activations: str
    dtype: str
    weight_dtype: str
    instructions: str
    weight_registers: int = 1
    other_registers: int = 2


def pack_filter(weight: np.ndarray, conv: Conv2d, tile: Tile, dot: Dot) -> np.ndarray:
    """Put a filter into the order in which the dot products read it.

    weight: int8 (CO, CG, KH, KW). Returns (groups * ceil(OG / tile.lanes), KH, KW, ceil(CG / taps),
    tile.lanes / dot.lanes, dot.lanes, taps), zero where a block or a tap reaches past the end.
    """
    if conv.groups > 1 and conv.OG % tile.lanes:
        raise ValueError(f"{tile.lanes} lanes do not divide the {conv.OG} output channels of a group")
    per_group, quads = ceil_div(conv.OG, tile.lanes), ceil_div(conv.CG, dot.taps)
    grouped = weight.reshape(conv.groups, conv.OG, conv.CG, conv.KH, conv.KW)
    missing = (0, per_group * tile.lanes - conv.OG), (0, quads * dot.taps - conv.CG)
    filled = np.pad(grouped, ((0, 0), *missing, (0, 0), (0, 0)))
    split = filled.reshape(
        conv.groups * per_group, tile.lanes // dot.lanes, dot.lanes, quads, dot.taps, conv.KH, conv.KW
    )
    return np.ascontiguousarray(split.transpose(0, 5, 6, 3, 1, 2, 4).astype(dot.weight_dtype))


def conv2d(x: Any, packed: Any, conv: Conv2d, tile: Tile, dot: Dot, zero_point: int, algorithm: str) -> Any:
    """The sums of products of x (N, H, W, CI), which is `zero_point` around its edges, with a packed filter.

    Returns int32 (N, OH, OW, CO).
    """
    return accumulate(
        READS[algorithm](pad(x, conv, tile, dot, zero_point), conv, tile, dot),
        packed,
        conv,
        tile,
        dot,
        algorithm,
    )


def pad(x: Any, conv: Conv2d, tile: Tile, dot: Dot, zero_point: int) -> Any:
    """The zero point around x (N, H, W, CI), as far as whole tiles and dot products read.

    Returns (N, height, width, groups * ceil(CG / taps) * taps).
    """
    (rows, columns), (top, left) = blocks.tiles(conv, tile), conv.padding[:2]
    height = in_extent(rows * tile.height, conv.KH, conv.stride[0], conv.dilation[0])
    width = in_extent(columns * tile.width, conv.KW, conv.stride[1], conv.dilation[1])
    filled = ceil_div(conv.CG, dot.taps) * dot.taps
    fits = (top, left) == (0, 0) and height <= conv.H and width <= conv.W and filled == conv.CG
    if fits and x.dtype == dot.dtype:
        return x

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = [h >= top, h < conv.H + top, w >= left, w < conv.W + left]
        group, channel = tirx.indexdiv(c, filled), tirx.indexmod(c, filled)
        if filled != conv.CG:
            inside.append(channel < conv.CG)
        value = x[n, h - top, w - left, group * conv.CG + channel].astype(dot.dtype)
        return tirx.if_then_else(tirx.all(*inside), value, tirx.const(zero_point, dot.dtype))

    shape = (conv.N, height, width, conv.groups * filled)
    return te.compute(shape, element, name="pad", attrs={"role": "pad"})


Read = Callable[..., Any]  # (n, y, x, h, w, kh, kw, first channel, tap) -> what a dot product reads there


def read_direct(padded: Any, conv: Conv2d, tile: Tile, dot: Dot) -> Read:
    """Direct: from the input as it lies in memory."""
    (sh, sw), (dh, dw) = conv.stride, conv.dilation

    def read(n: Any, y: Any, x: Any, h: Any, w: Any, kh: Any, kw: Any, c: Any, t: Any) -> Any:
        return padded[n, (y * tile.height + h) * sh + kh * dh, (x * tile.width + w) * sw + kw * dw, c + t]

    return read


def read_gemm(padded: Any, conv: Conv2d, tile: Tile, dot: Dot) -> Read:
    """GEMM: from the im2col matrix, (N, OH/height, OW/width, height, width, KH, KW, CI)."""
    direct = read_direct(padded, conv, tile, dot)

    def element(n: Any, y: Any, x: Any, h: Any, w: Any, kh: Any, kw: Any, c: Any) -> Any:
        return direct(n, y, x, h, w, kh, kw, c, 0)

    shape = (conv.N, *blocks.tiles(conv, tile), tile.height, tile.width, conv.KH, conv.KW, padded.shape[3])
    matrix = te.compute(shape, element, name="im2col", attrs={"role": "pack"})
    return lambda n, y, x, h, w, kh, kw, c, t: matrix[n, y, x, h, w, kh, kw, c + t]


def read_spatial_pack(padded: Any, conv: Conv2d, tile: Tile, dot: Dot) -> Read:
    """Spatial pack: from tiles with their halo, (N, OH/height, OW/width, tile's input height, width, CI)."""
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    height = in_extent(tile.height, conv.KH, sh, dh)
    width = in_extent(tile.width, conv.KW, sw, dw)
    tiles = te.compute(
        (conv.N, *blocks.tiles(conv, tile), height, width, padded.shape[3]),
        lambda n, y, x, h, w, c: padded[n, y * tile.height * sh + h, x * tile.width * sw + w, c],
        name="pack_tiles",
        attrs={"role": "pack"},
    )
    return lambda n, y, x, h, w, kh, kw, c, t: tiles[n, y, x, h * sh + kh * dh, w * sw + kw * dw, c + t]


READS: Mapping[str, Callable[[Any, Conv2d, Tile, Dot], Read]] = {
    "linear": read_direct,
    "direct": read_direct,
    "gemm": read_gemm,
    "spatial_pack": read_spatial_pack,
}


def accumulate(read: Read, packed: Any, conv: Conv2d, tile: Tile, dot: Dot, name: str) -> Any:
    """The sum of products over tiles, and back to NHWC: int32 (N, OH, OW, CO)."""
    per_group, quads = ceil_div(conv.OG, tile.lanes), ceil_div(conv.CG, dot.taps)
    kh, kw = te.reduce_axis((0, conv.KH), "kh"), te.reduce_axis((0, conv.KW), "kw")
    q, t = te.reduce_axis((0, quads), "q"), te.reduce_axis((0, dot.taps), "t")

    def element(n: Any, o: Any, y: Any, x: Any, h: Any, w: Any, v: Any, lane: Any) -> Any:
        first = (tirx.indexdiv(o, per_group) * quads + q if conv.groups > 1 else q) * dot.taps
        a = read(n, y, x, h, w, kh, kw, first, t).astype("int32")
        return te.sum(a * packed[o, kh, kw, q, v, lane, t].astype("int32"), axis=[kh, kw, q, t])

    (rows, columns), vectors = blocks.tiles(conv, tile), tile.lanes // dot.lanes
    shape = (conv.N, conv.groups * per_group, rows, columns, tile.height, tile.width, vectors, dot.lanes)
    tiled = te.compute(shape, element, name=name, attrs={"role": "accumulate"})

    def unpack(n: Any, h: Any, w: Any, c: Any) -> Any:
        block, lane = tirx.indexdiv(c, tile.lanes), tirx.indexmod(c, tile.lanes)
        y, x = tirx.indexdiv(h, tile.height), tirx.indexdiv(w, tile.width)
        row, column = tirx.indexmod(h, tile.height), tirx.indexmod(w, tile.width)
        return tiled[
            n, block, y, x, row, column, tirx.indexdiv(lane, dot.lanes), tirx.indexmod(lane, dot.lanes)
        ]

    return te.compute((conv.N, conv.OH, conv.OW, conv.CO), unpack, name="unpack", attrs={"role": "unpack"})


def pack_depthwise_filter(weight: np.ndarray, conv: Conv2d, dot: Dot) -> np.ndarray:
    """(CO, 1, KH, KW) as (ceil(CO / lanes), KH, KW, lanes)."""
    filled = np.pad(weight[:, 0], ((0, -conv.CO % dot.lanes), (0, 0), (0, 0)))
    split = filled.reshape(-1, dot.lanes, conv.KH, conv.KW)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1))


def depthwise(x: Any, packed: Any, conv: Conv2d, tile: Tile, dot: Dot, zero_point: int) -> Any:
    """Depthwise: a vector is the channels of one position. Returns int32 (N, OH, OW, CO)."""
    (rows, columns), (top, left) = blocks.tiles(conv, tile), conv.padding[:2]
    (sh, sw), (dh, dw), lanes = conv.stride, conv.dilation, dot.lanes
    height = in_extent(rows * tile.height, conv.KH, sh, dh)
    width = in_extent(columns * tile.width, conv.KW, sw, dw)
    blocks_ = ceil_div(conv.CO, lanes)

    def fill(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = [h >= top, h < conv.H + top, w >= left, w < conv.W + left]
        if blocks_ * lanes != conv.CO:
            inside.append(c < conv.CO)
        value = x[n, h - top, w - left, tirx.indexdiv(c, conv.OG)]
        return tirx.if_then_else(tirx.all(*inside), value, tirx.const(zero_point, x.dtype))

    padded = te.compute((conv.N, height, width, blocks_ * lanes), fill, name="pad", attrs={"role": "pad"})
    kh, kw = te.reduce_axis((0, conv.KH), "kh"), te.reduce_axis((0, conv.KW), "kw")

    def element(n: Any, o: Any, y: Any, x_: Any, h: Any, w: Any, lane: Any) -> Any:
        row, column = (y * tile.height + h) * sh + kh * dh, (x_ * tile.width + w) * sw + kw * dw
        a = padded[n, row, column, o * lanes + lane].astype("int32")
        return te.sum(a * packed[o, kh, kw, lane].astype("int32"), axis=[kh, kw])

    shape = (conv.N, blocks_, rows, columns, tile.height, tile.width, lanes)
    tiled = te.compute(shape, element, name="depthwise", attrs={"role": "depthwise"})

    def unpack(n: Any, h: Any, w: Any, c: Any) -> Any:
        y, x_ = tirx.indexdiv(h, tile.height), tirx.indexdiv(w, tile.width)
        row, column = tirx.indexmod(h, tile.height), tirx.indexmod(w, tile.width)
        return tiled[n, tirx.indexdiv(c, lanes), y, x_, row, column, tirx.indexmod(c, lanes)]

    return te.compute((conv.N, conv.OH, conv.OW, conv.CO), unpack, name="unpack", attrs={"role": "unpack"})
