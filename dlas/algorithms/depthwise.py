"""Depthwise convolution, direct: a channel's outputs read one input channel, in runs or a block at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script import tirx as T

from dlas.algorithms import blocks, direct, runs
from dlas.algorithms.convolution import Conv2d, Tile
from dlas.algorithms.runs import RunTile, extents


@lru_cache(maxsize=64)  # a network has few kinds, and to parse one takes a tenth of a second
def conv2d(conv: Conv2d, tile: RunTile) -> tirx.PrimFunc:
    """A function of x (N, CI, H, W) and weight (CO, 1, KH, KW), to (N, CO, OH, OW).

    Its block of role `depthwise`, (N, CO, OH/height, OW/width, 1), computes a whole tile, which a block in it
    sums. Annotations as of role `sparse`.
    """
    source = runs.source(conv, tile, "direct")
    image, height, width, pitch = source.image, tile.height, tile.width, source.image.pitch
    is_padded, pad = not image.is_input(conv), runs.padding(conv, image)
    unpack = runs.unpacking(conv, tile, source)
    N, CI, H, W, CO, OH, OW = extents(conv.N, conv.CI, conv.H, conv.W, conv.CO, conv.OH, conv.OW)
    down, across, size, image_size = extents(*runs.tile_counts(conv, tile), source.size, image.size)
    KH, KW, one, runs_, length = extents(conv.KH, conv.KW, 1, source.runs, source.length)

    def place(y: Any, x: Any, r: Any, i: Any, kh: Any, kw: Any) -> Any:
        """Where in its channel an output of a tile reads what it multiplies with (kh, kw) of the filter."""
        start = (y * height + r) * pitch + x * width + i
        return start + runs.offset(conv, image, False, 0, kh, kw)

    def read(image: Any, n: Any, c: Any, element: Any) -> Any:
        return image[n, c, element] if is_padded else image[n, c, 0, element]  # a channel is one row

    @T.prim_func(s_tir=True)
    def function(
        x: T.Buffer((N, CI, H, W), "float32"),
        weight: T.Buffer((CO, one, KH, KW), "float32"),
        out: T.Buffer((N, CO, OH, OW), "float32"),
    ) -> None:
        T.func_attr({"op_pattern": 4, "tirx.noalias": True})  # kOutEWiseFusable of tvm/relax/op_attr_types.h
        padded = T.sblock_alloc_buffer((N, CI, image_size)) if is_padded else x
        tiles = T.sblock_alloc_buffer((N, CO, down, across, size))
        if is_padded:
            pad(x, padded)
        for n, o, y, x_, t in T.grid(N, CO, down, across, one):
            with T.sblock("depthwise"):
                vn, vo, vy, vx, vt = T.axis.remap("SSSSS", [n, o, y, x_, t])
                T.reads(
                    padded[vn, vo // conv.OG, 0:image_size] if is_padded else x[vn, vo // conv.OG, 0:H, 0:W],
                    weight[vo, 0, 0:KH, 0:KW],
                )
                T.writes(tiles[vn, vo, vy, vx, vt * size : vt * size + size])
                T.sblock_attr({"role": "depthwise", "height": height, "width": width})
                for r, i, kh, kw in T.grid(runs_, length, KH, KW):
                    with T.sblock("sum"):
                        vr, vi, vkh, vkw = T.axis.remap("SSRR", [r, i, kh, kw])
                        with T.init():
                            tiles[vn, vo, vy, vx, vt * size + vr * length + vi] = T.float32(0)
                        tiles[vn, vo, vy, vx, vt * size + vr * length + vi] = (
                            tiles[vn, vo, vy, vx, vt * size + vr * length + vi]
                            + read(padded, vn, vo // conv.OG, place(vy, vx, vr, vi, vkh, vkw))
                            * weight[vo, 0, vkh, vkw]
                        )
        unpack(tiles, out)

    return function


def conv2d_blocked(x: Any, packed: Any, conv: Conv2d, tile: Tile) -> Any:
    """x and output (N, C/block, H, W, block), packed as by `pack_filter`.

    Its block of role `depthwise_blocked` is (N, C/block, OH/height, OW/width, height, width, block), and sums
    over the filter; tile.lanes is the block.
    """
    image, (sh, sw), (dh, dw) = blocks.image(x, conv, tile), conv.stride, conv.dilation
    kh, kw = te.reduce_axis((0, conv.KH), "kh"), te.reduce_axis((0, conv.KW), "kw")

    def element(n: Any, o: Any, y: Any, x_: Any, h: Any, w: Any, lane: Any) -> Any:
        row, column = (y * tile.height + h) * sh + kh * dh, (x_ * tile.width + w) * sw + kw * dw
        read = image(n, o * tile.lanes + lane, row, column)
        return te.sum(read * packed[o, kh, kw, lane], axis=[kh, kw])

    shape = (conv.N, conv.CO // tile.lanes, *blocks.tiles(conv, tile), tile.height, tile.width, tile.lanes)
    tiled = te.compute(shape, element, name="depthwise", attrs={"role": "depthwise_blocked"})
    return blocks.unpack(tiled, conv, tile, tile.lanes)


def conv2d_tiles(x: Any, packed: Any, conv: Conv2d, tile: Tile) -> Any:
    """x (N, CI, H, W), packed (CO, 1, KH, KW, 1) as by `blocks.pack_filter` with one lane. Gives NCHW.

    A tile is a part of one channel's map: for devices whose threads each have one, and no vectors.
    """
    return direct.conv2d(x, packed, conv, tile, name="depthwise")


def pack_filter(weight: np.ndarray, block: int) -> np.ndarray:
    """(C, 1, KH, KW) to (C/block, KH, KW, block), for channels in blocks."""
    channels, _, KH, KW = weight.shape
    return np.ascontiguousarray(weight.reshape(channels // block, block, KH, KW).transpose(0, 2, 3, 1))
