"""Spatial pack convolution: the input is cut into tiles with their halo, each packed on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile, in_extent


def conv2d(x: Any, packed: Any, conv: Conv2d, tile: Tile, block: int = 0) -> Any:
    """x as in blocks.at, packed as by blocks.pack_filter. Returns what blocks.unpack does."""
    packed_tiles = pack_tiles(blocks.image(x, conv, tile), conv, tile)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation

    def read(n: Any, y: Any, x_: Any, c: Any, h: Any, w: Any, kh: Any, kw: Any) -> Any:
        return packed_tiles[n, y, x_, c, h * sh + kh * dh, w * sw + kw * dw]

    return blocks.accumulate(read, packed, conv, tile, "spatial_pack", block)


def pack_tiles(image: Callable[..., Any], conv: Conv2d, tile: Tile) -> Any:
    """What each tile reads, halo included: (N, OH/height, OW/width, CI, tile's input height, width)."""
    sh, sw = conv.stride
    height = in_extent(tile.height, conv.KH, sh, conv.dilation[0])
    width = in_extent(tile.width, conv.KW, sw, conv.dilation[1])
    return te.compute(
        (conv.N, *blocks.tiles(conv, tile), conv.CI, height, width),
        lambda n, y, x, c, h, w: image(n, c, y * tile.height * sh + h, x * tile.width * sw + w),
        name="pack_tiles",
        attrs={"role": "pack"},
    )
