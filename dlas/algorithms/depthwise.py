"""Depthwise convolution, direct: a channel's outputs read one input channel, so the lanes are columns."""

from __future__ import annotations

from typing import Any

from tvm import te

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile


def conv2d(x: Any, weight: Any, conv: Conv2d, tile: Tile) -> Any:
    """x (N, CI, H, W), weight (CO, 1, KH, KW). Returns (N, CO, OH, OW).

    Of the tile, height and width count; the width is the vector.
    """
    padded = blocks.pad(x, conv, tile)
    kh, kw = te.reduce_axis((0, conv.KH), "kh"), te.reduce_axis((0, conv.KW), "kw")
    (rows, columns), (sh, sw), (dh, dw) = blocks.tiles(conv, tile), conv.stride, conv.dilation

    def element(n: Any, o: Any, y: Any, x_: Any, h: Any, w: Any) -> Any:
        row = (y * tile.height + h) * sh + kh * dh
        column = (x_ * tile.width + w) * sw + kw * dw
        return te.sum(padded[n, o // conv.OG, row, column] * weight[o, 0, kh, kw], axis=[kh, kw])

    tiled = te.compute(
        (conv.N, conv.CO, rows, columns, tile.height, tile.width),
        element,
        name="depthwise",
        attrs={"role": "depthwise"},
    )
    return te.compute(
        (conv.N, conv.CO, conv.OH, conv.OW),
        lambda n, o, h, w: tiled[n, o, h // tile.height, w // tile.width, h % tile.height, w % tile.width],
        name="unpack",
        attrs={"role": "unpack"},
    )
