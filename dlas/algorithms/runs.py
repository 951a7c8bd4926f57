"""Runs: inputs of neighbouring outputs that lie next to each other, so that a vector is several outputs.

In a strided convolution the inputs of neighbours are not neighbours; so a padded image is kept by phase:
rows and columns that leave the same remainder when divided by the stride lie together. An output and a place
of the filter are then an offset each, whose sum is where the input lies. What runs are read from is the
algorithm:

    direct        the padded image
    gemm          a tile's part of the im2col matrix: one row for each input channel and place of the filter
    spatial_pack  a tile of the padded image, with its halo

An array that holds an image has one axis for all elements of a channel, or of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from dlas.algorithms.convolution import Conv2d, ceil_div

PACKS = {"direct": "", "gemm": "im2col", "spatial_pack": "pack_tiles"}  # what packs the input


@dataclass(frozen=True)
class RunTile:
    """Outputs of one channel that are computed together: height x width, `vector` neighbours at once."""

    height: int
    width: int
    vector: int


@dataclass(frozen=True)
class Planes:
    """A channel in memory: down x across planes of rows x pitch elements."""

    down: int
    across: int
    rows: int
    pitch: int

    @property
    def size(self) -> int:
        """Elements of a channel."""
        return self.down * self.across * self.rows * self.pitch

    def index(self, c: Any, a: Any, b: Any, row: Any, column: Any) -> Any:
        """Of an element of channel c, in plane (a, b)."""
        return (((c * self.down + a) * self.across + b) * self.rows + row) * self.pitch + column

    def position(self, index: Any) -> tuple[Any, Any, Any, Any, Any]:
        """The inverse of `index`: c, a, b, row, column."""
        column, index = index % self.pitch, index // self.pitch
        row, index = index % self.rows, index // self.rows
        b, index = index % self.across, index // self.across
        return index // self.down, index % self.down, b, row, column

    def is_input(self, conv: Conv2d) -> bool:
        """Whether the padded image of a convolution is its input as it lies in memory."""
        return self == Planes(1, 1, conv.H, conv.W) and conv.padding[:2] == (0, 0)

    def extents(self, channels: int) -> list[int]:
        """Of the loops over all elements of so many channels."""
        return [channels, self.down, self.across, self.rows, self.pitch]


@dataclass(frozen=True)
class Source:
    """What a tile reads: a part of the image, or `packed`, its own copy of that.

    A tile's outputs are computed as `runs` of `length` neighbours, which start a pitch apart, all in so many
    `vectors`.
    """

    image: Planes
    packed: Planes | None
    runs: int
    length: int
    vectors: int

    @property
    def size(self) -> int:
        """How many outputs of a tile are computed, with those past its edge."""
        return self.runs * self.length

    @property
    def planes(self) -> Planes:
        return self.packed or self.image

    @property
    def step(self) -> int:
        """From one row of a tile to the next, among its outputs."""
        return self.planes.pitch if self.runs == 1 else self.length


def source(conv: Conv2d, tile: RunTile, algorithm: str) -> Source:
    """What the tiles of an algorithm read, no larger than whole vectors need."""
    (sh, sw), (dh, dw), (down, across) = conv.stride, conv.dilation, tile_counts(conv, tile)
    halo_rows, halo_columns = (conv.KH - 1) * dh // sh, (conv.KW - 1) * dw // sw
    # Of the phases, those that the filter reads: a 1x1 convolution of any stride has one.
    a, b = (max(k * d % s for k in range(K)) + 1 for K, d, s in ((conv.KH, dh, sh), (conv.KW, dw, sw)))
    image = Planes(a, b, conv.OH + halo_rows, across * tile.width + halo_columns)
    if algorithm == "gemm":
        planes, halo_rows, halo_columns = Planes(conv.KH, conv.KW, tile.height, tile.width), 0, 0
    elif algorithm == "spatial_pack":
        planes = Planes(a, b, tile.height + halo_rows, tile.width + halo_columns)
    else:
        planes = image
    flat = ceil_div((tile.height - 1) * planes.pitch + tile.width, tile.vector)
    by_row = ceil_div(tile.width, tile.vector)
    runs, vectors = (1, flat) if flat <= tile.height * by_row else (tile.height, by_row)
    length = vectors * tile.vector
    # The last vector of the last tile reaches further than its outputs, but not past the last plane.
    tiles = (1, 1) if PACKS[algorithm] else (down, across)
    last_row = (tiles[0] - 1) * tile.height + halo_rows + runs - 1
    last = last_row * planes.pitch + (tiles[1] - 1) * tile.width + halo_columns + length
    planes = replace(planes, rows=max(planes.rows, ceil_div(last, planes.pitch)))
    if PACKS[algorithm]:
        return Source(image, planes, runs, length, runs * vectors)
    return Source(planes, None, runs, length, runs * vectors)


def tile_counts(conv: Conv2d, tile: RunTile) -> tuple[int, int]:
    """How many tiles cover the output's height and width."""
    return ceil_div(conv.OH, tile.height), ceil_div(conv.OW, tile.width)


def tiles(conv: Conv2d, vector: int) -> Iterator[RunTile]:
    """Tiles of every height, over whole rows or a part of them."""
    widths = {ceil_div(conv.OW, parts) for parts in range(1, ceil_div(conv.OW, vector) + 1)}
    widths |= set(range(vector, conv.OW, vector))
    return (RunTile(h, w, vector) for w in sorted(widths) for h in range(1, conv.OH + 1))


def offset(conv: Conv2d, planes: Planes, by_tap: bool, c: Any, kh: Any, kw: Any) -> Any:
    """Of what (c, kh, kw) of the filter is multiplied with, from the start of a tile's source.

    by_tap: the planes are those of the im2col matrix, else those of an image. c, kh, kw: integers, arrays of
    them or expressions.
    """
    if by_tap:
        return planes.index(c, kh, kw, 0, 0)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    return planes.index(c, kh * dh % sh, kw * dw % sw, kh * dh // sh, kw * dw // sw)


def extents(*numbers: int) -> list[Any]:
    """Sizes as Relax counts, in 64 bits: what is fused with its kernels must have their types."""
    return [tirx.IntImm("int64", number) for number in numbers]


def padding(conv: Conv2d, image: Planes) -> Any:
    """What writes the blocks that fill padded (N, CI, image.size) from x (N, CI, H, W), inside a function.

    The block of role `pad` fills one channel. Those inside it are `edge` and `copy`: in the columns of the
    latter there is no zero but in whole rows of them.
    """
    (sh, sw), (top, left) = conv.stride, conv.padding[:2]
    # In the plane of each remainder b, column i is that of input i * sw + b - left.
    first = max(0, ceil_div(left, sw))
    last = max(first, min(image.pitch, (conv.W - 1 + left - (sw - 1)) // sw + 1))
    edges = image.pitch - (last - first)
    N, CI, H, W, size, one, copied, rest = extents(
        conv.N, conv.CI, conv.H, conv.W, image.size, 1, last - first, edges
    )
    down, across, rows = extents(image.down, image.across, image.rows)

    def place(t: Any, a: Any, b: Any, row: Any, column: Any) -> Any:
        return t * image.size + image.index(0, a, b, row, column)

    def edge(i: Any) -> Any:
        return tirx.Select(i < first, i, i + (last - first)) if first else i + (last - first)

    def value(x: Any, n: Any, c: Any, a: Any, b: Any, row: Any, column: Any) -> Any:
        h, w = row * sh + a - top, column * sw + b - left
        inside = tirx.all(h >= 0, h < conv.H, w >= 0, w < conv.W)
        return tirx.if_then_else(inside, x[n, c, h, w], tirx.const(0, "float32"))

    @T.inline
    def pad(x: Any, padded: Any) -> None:
        for n, c, t in T.grid(N, CI, one):
            with T.sblock("pad"):
                vn, vc, vt = T.axis.remap("SSS", [n, c, t])
                T.reads(x[vn, vc, 0:H, 0:W])
                T.writes(padded[vn, vc, vt * size : vt * size + size])
                T.sblock_attr({"role": "pad"})
                with T.sblock("channel"):  # the only one to write, for those who look one level down
                    if edges > 0:
                        with T.sblock("edges"):  # so that `edge` is the only one to write
                            for a, b, r, i in T.grid(down, across, rows, rest):
                                with T.sblock("edge"):
                                    va, vb, vr, vi = T.axis.remap("SSSS", [a, b, r, i])
                                    padded[vn, vc, place(vt, va, vb, vr, edge(vi))] = value(
                                        x, vn, vc, va, vb, vr, edge(vi)
                                    )
                    if last > first:
                        with T.sblock("copies"):
                            for a, b, r, i in T.grid(down, across, rows, copied):
                                with T.sblock("copy"):
                                    va, vb, vr, vi = T.axis.remap("SSSS", [a, b, r, i])
                                    T.sblock_attr({"role": "copy"})
                                    # As a statement: as an expression, it would be asked for each element.
                                    if vr * sh + va >= top and vr * sh + va < conv.H + top:
                                        padded[vn, vc, place(vt, va, vb, vr, vi + first)] = x[
                                            vn, vc, vr * sh + va - top, (vi + first) * sw + vb - left
                                        ]
                                    else:
                                        padded[vn, vc, place(vt, va, vb, vr, vi + first)] = T.float32(0)

    return pad


def unpacking(conv: Conv2d, tile: RunTile, source: Source) -> Any:
    """What writes the block of role `unpack`: out (N, CO, OH, OW) from tiles (N, CO, down, across, size)."""
    height, width, step = tile.height, tile.width, source.step
    N, CO, OH, OW = extents(conv.N, conv.CO, conv.OH, conv.OW)

    @T.inline
    def unpack(tiles: Any, out: Any) -> None:
        for n, o, h, w in T.grid(N, CO, OH, OW):
            with T.sblock("unpack"):
                vn, vo, vh, vw = T.axis.remap("SSSS", [n, o, h, w])
                T.sblock_attr({"role": "unpack"})
                out[vn, vo, vh, vw] = tiles[
                    vn, vo, vh // height, vw // width, vh % height * step + vw % width
                ]

    return unpack
