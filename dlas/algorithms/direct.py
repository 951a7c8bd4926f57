"""Direct convolution: the sum as it is defined, over the input as it lies in memory."""

from __future__ import annotations

from typing import Any

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile


def conv2d(x: Any, packed: Any, conv: Conv2d, tile: Tile, block: int = 0, name: str = "direct") -> Any:
    """x as in blocks.at, packed as by blocks.pack_filter; name: of the sum. Gives what blocks.unpack does."""
    image = blocks.image(x, conv, tile)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation

    def read(n: Any, y: Any, x_: Any, c: Any, h: Any, w: Any, kh: Any, kw: Any) -> Any:
        row, column = (y * tile.height + h) * sh + kh * dh, (x_ * tile.width + w) * sw + kw * dw
        return image(n, c, row, column)

    return blocks.accumulate(read, packed, conv, tile, name, block)
