"""Convolution as a matrix product: im2col (Chellapilla et al., 2006), then filter times columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile


def conv2d(x: Any, packed: Any, conv: Conv2d, tile: Tile, block: int = 0) -> Any:
    """x as in blocks.at, packed as by blocks.pack_filter. Returns what blocks.unpack does."""
    matrix = im2col(blocks.image(x, conv, tile), conv, tile)

    def read(n: Any, y: Any, x_: Any, c: Any, h: Any, w: Any, kh: Any, kw: Any) -> Any:
        return matrix[n, y, x_, c, kh, kw, h, w]

    return blocks.accumulate(read, packed, conv, tile, "gemm", block)


def im2col(image: Callable[..., Any], conv: Conv2d, tile: Tile) -> Any:
    """The matrix whose column is the receptive field of one output position.

    Its columns are ordered by tile, so that the product reads them in order. Returns
    (N, OH/height, OW/width, CI, KH, KW, height, width).
    """
    (sh, sw), (dh, dw) = conv.stride, conv.dilation

    def element(n: Any, y: Any, x: Any, c: Any, kh: Any, kw: Any, h: Any, w: Any) -> Any:
        row, column = (y * tile.height + h) * sh + kh * dh, (x * tile.width + w) * sw + kw * dw
        return image(n, c, row, column)

    shape = (conv.N, *blocks.tiles(conv, tile), conv.CI, conv.KH, conv.KW, tile.height, tile.width)
    return te.compute(shape, element, name="im2col", attrs={"role": "pack"})
