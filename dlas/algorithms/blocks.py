"""What the three algorithms share: filter packing, padding, and the first and last step of a convolution.

Schedules find a block by its `role`:

    pad         the input with its zeros around it
    pack        the input rearranged for the inner kernel (im2col matrix, or packed tiles)
    accumulate  the sum of products, (N, block, OH/height, OW/width, height, width, lanes): the first four
                axes choose a tile, the others run over its outputs
    depthwise   (N, CO, OH/height, OW/width, 1), a whole tile each, which blocks inside it sum
    sparse      the same with an axis for parts of the input channels, each of which adds to the tile
    unpack      the tiles put back to NCHW

The last two sums are those of `runs`. They have annotations `height` and `width`, of their tiles; `pack` has
`loops` there, the extents that its last axis is made of; and a block `copy` inside `pad` fills what holds no
zero but in whole rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx

from dlas.algorithms.convolution import Conv2d, Tile, ceil_div, in_extent

NCHW_AXES = 4
FILTER_AXES = 5  # of a packed filter whose input channels are not in blocks
# What lies so far apart shares a set of an L1 of 32 KiB and 8 ways: of 16x16 places of 8 channels, 8 blocks.
SET_BYTES = 4096
FLOAT32_BYTES = 4


def pack_filter(weight: np.ndarray, conv: Conv2d, lanes: int, block: int = 0) -> np.ndarray:
    """Group the output channels of a filter by lanes, so that the inner kernel reads it in order.

    weight: (CO, CG, KH, KW). Returns (ceil(CO / lanes), CG, KH, KW, lanes), or for input channels in blocks
    (ceil(CO / lanes), CG/block, KH, KW, block, lanes); the channels that fill the last block of lanes are
    zero. Such a block lies within one group: where there are several, lanes divides OG.
    """
    if conv.groups > 1 and conv.OG % lanes:
        raise ValueError(f"{lanes} lanes do not divide the {conv.OG} output channels of a group")
    count = ceil_div(conv.CO, lanes)
    filled = np.pad(weight, ((0, count * lanes - conv.CO), (0, 0), (0, 0), (0, 0)))
    blocked = filled.reshape(count, lanes, *_blocked(conv.CG, block), conv.KH, conv.KW)
    axes = (0, 2, 4, 5, 3, 1) if block else (0, 2, 3, 4, 1)
    return np.ascontiguousarray(blocked.transpose(axes))


def _blocked(channels: int, block: int) -> tuple[int, ...]:
    return (channels // block, block) if block else (channels,)


def to_blocks(array: np.ndarray, block: int) -> np.ndarray:
    """(N, C, H, W) to (N, C/block, H, W, block), where the block divides C."""
    n, c, h, w = array.shape
    blocked = array.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(blocked)


def tiles(conv: Conv2d, tile: Tile) -> tuple[int, int]:
    """How many tiles cover the output's height and width; the last ones may reach past its edge."""
    return ceil_div(conv.OH, tile.height), ceil_div(conv.OW, tile.width)


def reduction(conv: Conv2d) -> tuple[Any, Any, Any]:
    """The axes that a convolution sums over: input channel of the group, kernel row, kernel column."""
    return (
        te.reduce_axis((0, conv.CG), "ci"),
        te.reduce_axis((0, conv.KH), "kh"),
        te.reduce_axis((0, conv.KW), "kw"),
    )


def at(x: Any, n: Any, c: Any, h: Any, w: Any) -> Any:
    """An element of activations that are NCHW, or NCHW with channels in blocks: (N, C/block, H, W, block)."""
    if len(x.shape) == NCHW_AXES:
        return x[n, c, h, w]
    block = int(x.shape[NCHW_AXES])
    return x[n, c // block, h, w, c % block]


def image(x: Any, conv: Conv2d, tile: Tile) -> Callable[..., Any]:
    """What tiles read of x: a function of n, c, row and column of x with its padding.

    Where it has none and channels are in blocks, tiles that reach past the end read the last column anew.
    """
    if conv.pointwise and len(x.shape) != NCHW_AXES and conv.OH % tile.height == 0:
        is_whole = conv.OW % tile.width == 0
        return lambda n, c, h, w: at(x, n, c, h, w if is_whole else tirx.min(w, conv.W - 1))
    padded = pad(x, conv, tile)
    return lambda n, c, h, w: at(padded, n, c, h, w)


def pad(x: Any, conv: Conv2d, tile: Tile) -> Any:
    """Zeros around x, which is as in `at`, as far as whole tiles read.

    With a column more where the blocks of channels, which are read side by side, would lie in the same sets.
    """
    (rows, columns), (top, left) = tiles(conv, tile), conv.padding[:2]
    height = in_extent(rows * tile.height, conv.KH, conv.stride[0], conv.dilation[0])
    width = in_extent(columns * tile.width, conv.KW, conv.stride[1], conv.dilation[1])
    # Where the stride leaves the last rows unread, the padded input is the smaller one.
    if (top, left) == (0, 0) and height <= conv.H and width <= conv.W:
        return x

    def element(n: Any, c: Any, h: Any, w: Any, *lane: Any) -> Any:
        inside = tirx.all(h >= top, h < conv.H + top, w >= left, w < conv.W + left)
        return tirx.if_then_else(inside, x[n, c, h - top, w - left, *lane], 0.0)

    if len(x.shape) > NCHW_AXES:
        in_step = height * width * int(x.shape[NCHW_AXES]) * FLOAT32_BYTES % SET_BYTES == 0
        width += in_step
    shape = (*x.shape[:2], height, width, *x.shape[NCHW_AXES:])
    return te.compute(shape, element, name="pad", attrs={"role": "pad"})


def accumulate(a: Any, packed: Any, conv: Conv2d, tile: Tile, name: str, block: int = 0) -> Any:
    """The sum of products over tiles, put back as by `unpack`.

    a(n, y, x, c, h, w, kh, kw) is the input that output (h, w) of tile (y, x) reads from channel c at
    (kh, kw) of the filter.
    """
    ci, kh, kw = reduction(conv)
    per_group = max(1, conv.OG // tile.lanes)

    def weight(o: Any, kh: Any, kw: Any, lane: Any) -> Any:
        if len(packed.shape) == FILTER_AXES:
            return packed[o, ci, kh, kw, lane]
        inner = int(packed.shape[FILTER_AXES - 1])
        return packed[o, ci // inner, kh, kw, ci % inner, lane]

    def element(n: Any, o: Any, y: Any, x: Any, h: Any, w: Any, lane: Any) -> Any:
        channel = (o // per_group) * conv.CG + ci if conv.groups > 1 else ci
        return te.sum(a(n, y, x, channel, h, w, kh, kw) * weight(o, kh, kw, lane), axis=[ci, kh, kw])

    shape = (conv.N, ceil_div(conv.CO, tile.lanes), *tiles(conv, tile), tile.height, tile.width, tile.lanes)
    tiled = te.compute(shape, element, name=name, attrs={"role": "accumulate"})
    return unpack(tiled, conv, tile, block)


def unpack(tiled: Any, conv: Conv2d, tile: Tile, block: int = 0) -> Any:
    """Put tiles (N, ceil(CO / lanes), OH/height, OW/width, height, width, lanes) back to NCHW.

    With a block, to (N, CO/block, OH, OW, block), where it divides CO.
    """

    def element(n: Any, o: Any, h: Any, w: Any, *lane: Any) -> Any:
        channel = o * block + lane[0] if lane else o
        y, x, row, column = h // tile.height, w // tile.width, h % tile.height, w % tile.width
        return tiled[n, channel // tile.lanes, y, x, row, column, channel % tile.lanes]

    shape: tuple[int, ...] = (conv.N, conv.CO, conv.OH, conv.OW)
    if block:
        shape = (conv.N, conv.CO // block, conv.OH, conv.OW, block)
    return te.compute(shape, element, name="unpack", attrs={"role": "unpack"})
