"""Spatial pack convolution: the input is cut into tiles with their halo, each packed on its own."""

from __future__ import annotations

from typing import Any

from tvm import te

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile, in_extent


def conv2d(x: Any, packed: Any, conv: Conv2d, tile: Tile) -> Any:
    """x (N, CI, H, W), packed as by blocks.pack_filter. Returns (N, CO, OH, OW)."""
    packed_tiles = pack_tiles(blocks.pad(x, conv, tile), conv, tile)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation

    def read(n: Any, y: Any, x_: Any, c: Any, h: Any, w: Any, kh: Any, kw: Any) -> Any:
        return packed_tiles[n, y, x_, c, h * sh + kh * dh, w * sw + kw * dw]

    return blocks.accumulate(read, packed, conv, tile, "spatial_pack")


def pack_tiles(padded: Any, conv: Conv2d, tile: Tile) -> Any:
    """What each tile reads, halo included: (N, OH/height, OW/width, CI, tile's input height, width)."""
    sh, sw = conv.stride
    height = in_extent(tile.height, conv.KH, sh, conv.dilation[0])
    width = in_extent(tile.width, conv.KW, sw, conv.dilation[1])
    return te.compute(
        (conv.N, *blocks.tiles(conv, tile), conv.CI, height, width),
        lambda n, y, x, c, h, w: padded[n, c, y * tile.height * sh + h, x * tile.width * sw + w],
        name="pack_tiles",
        attrs={"role": "pack"},
    )
