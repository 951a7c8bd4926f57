"""Direct convolution: the sum as it is defined, over the input as it lies in memory."""

from __future__ import annotations

from typing import Any

from dlas.algorithms import blocks
from dlas.algorithms.convolution import Conv2d, Tile


def conv2d(x: Any, packed: Any, conv: Conv2d, tile: Tile) -> Any:
    """x (N, CI, H, W), packed as by blocks.pack_filter. Returns (N, CO, OH, OW)."""
    padded = blocks.pad(x, conv, tile)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation

    def read(n: Any, y: Any, x_: Any, c: Any, h: Any, w: Any, kh: Any, kw: Any) -> Any:
        return padded[n, c, (y * tile.height + h) * sh + kh * dh, (x_ * tile.width + w) * sw + kw * dw]

    return blocks.accumulate(read, packed, conv, tile, "direct")
