"""Sparse convolution with static loop extents: ELL, the rows of a filter filled up to the same length.

The trip counts of a loop over CSR are read from memory, so that no rule of a search can split, bind or unroll
it. The weights are known when a network is compiled, and so are these extents. Filling every row up to the
longest one of all is wasteful: rows of like length share a bucket, and buckets end where that saves most. It
is sliced ELLPACK (Monakov, Lokhmotov, Avetisyan, 2010) with rows ordered by length and slices of any height.

What an entry is multiplied with is looked up when the filter is packed; only where it lies is left. The
sources are those of `runs`:

    direct        the padded image, in which neighbouring outputs read neighbouring inputs
    gemm          the im2col matrix, a row of it for each entry
    spatial_pack  tiles of the padded image, each with its halo

Roles are those of `blocks`: `pad` or `pack`; `sparse`, one for each bucket, (N, rows, OH, OW) or of tiles
(N, rows, OH/height, OW/width, height, width), and over the entries of a row; `unpack`, which puts the rows
back into the order of the output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from tvm import te, tirx

from dlas.algorithms import runs
from dlas.algorithms.convolution import Conv2d
from dlas.algorithms.csr import check_csr
from dlas.algorithms.runs import Planes, RunTile
from dlas.errors import ModelError
from dlas.values import Csr

# What output (h, w) of a tile reads at an offset: of (n, where the tile is, offset, h, w).
Read = Callable[[Any, list[Any], Any, Any, Any], Any]


@dataclass(frozen=True)
class Ell:
    """A pruned filter in buckets of rows of one length.

    data: float32 (rows, width), one of each bucket. columns: int32 of the same shapes, where in CI/groups *
    KH * KW they are; what fills a row up has data 0 and the column of the entry before. channels: int32
    (CO,), whose the rows are, of one bucket after another.
    """

    data: tuple[np.ndarray, ...]
    columns: tuple[np.ndarray, ...]
    channels: np.ndarray

    @property
    def padded_fraction(self) -> float:
        """The share of the entries that only fill rows up."""
        entries = sum(data.size for data in self.data)
        return 1 - sum(int(np.count_nonzero(data)) for data in self.data) / entries


def pack_ell(csr: Csr, buckets: int) -> Ell:
    """Put the rows of a filter into so many buckets, with as few entries in all as these can have.

    There are fewer where the rows have fewer lengths; a row without nonzeros counts as one of length 1.
    Within a bucket, channels ascend. Raises ModelError for a malformed CSR, ValueError for no bucket.

    >>> csr = Csr(np.ones(4, "float32"), np.array([0, 0, 1, 2], "int32"), np.array([0, 1, 4, 4], "int32"))
    >>> ell = pack_ell(csr, buckets=2)
    >>> [data.shape for data in ell.data], ell.channels.tolist()
    ([(2, 1), (1, 3)], [0, 2, 1])
    """
    if buckets < 1:
        raise ValueError(f"rows do not go into {buckets} buckets")
    check_csr(csr, max(1, len(csr.indptr) - 1), np.iinfo("int32").max)
    lengths = np.maximum(np.diff(csr.indptr), 1)
    widths = cut_lengths(lengths, buckets)
    channels = [
        np.flatnonzero((lengths > shorter) & (lengths <= width)) for shorter, width in pairwise([0, *widths])
    ]
    filled = [_fill(csr, rows, width) for rows, width in zip(channels, widths, strict=True)]
    data, columns = zip(*filled, strict=True)
    return Ell(data, columns, np.concatenate(channels).astype("int32"))


def cut_lengths(lengths: np.ndarray, buckets: int) -> list[int]:
    """The widths of the buckets that hold rows of these lengths in the fewest entries, ascending.

    An exact dynamic programme: the best cut of the shortest rows, by how many buckets it has. lengths:
    (rows,), at least 1.

    >>> cut_lengths(np.array([1, 9, 8, 2, 2]), buckets=2)
    [2, 9]
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # rows that are shorter, by length
    # One bucket from length i to length j; where there is none, more than any.
    entries = (below[None, 1:] - below[:-1, None]) * distinct
    entries = np.where(entries > 0, entries, entries.max() + 1)
    least, starts = entries[0], []
    for _ in range(buckets - 1):
        totals = np.concatenate([entries[:1], least[:-1, None] + entries[1:]])
        least, start = totals.min(axis=0), totals.argmin(axis=0)
        starts.append(start)
    widths, last = [], len(distinct) - 1
    while last >= 0:
        widths.append(int(distinct[last]))
        last = int(starts.pop()[last]) - 1 if starts else -1
    return widths[::-1]


def _fill(csr: Csr, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Data and columns (rows, width) of these rows of a CSR, filled up."""
    starts, ends = csr.indptr[rows][:, None], csr.indptr[rows + 1][:, None]
    places = starts + np.arange(width)
    # What fills a row up reads what was just read, or the first input where there was nothing.
    read = np.where(starts < ends, np.minimum(places, ends - 1), len(csr.data))
    data, columns = (np.append(array, array.dtype.type(0))[read] for array in (csr.data, csr.indices))
    data[places >= ends] = 0
    return data, columns


def unpack_ell(ell: Ell, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The filter, float32 of this shape, that an ELL was packed from. Raises as `check_ell`."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    check_ell(ell, rows, columns)
    matrix = np.zeros((rows, columns), "float32")
    for channels, data, places in zip(_split(ell), ell.data, ell.columns, strict=True):
        row, entry = np.nonzero(data)
        matrix[channels[row], places[row, entry]] = data[row, entry]
    return matrix.reshape(shape)


def check_ell(ell: Ell, rows: int, columns: int) -> None:
    """Raises ModelError unless an ELL is one of a matrix of this size: a kernel reads wherever it points."""
    for problem, is_so in _problems(ell, rows, columns):
        if is_so:
            raise ModelError(f"malformed ELL: {problem}", "pack it again with pack_ell")


def _problems(ell: Ell, rows: int, columns: int) -> Iterator[tuple[str, bool]]:
    """Each thing that can be wrong, and whether it is; a later one may only be asked if no earlier one is."""
    counts = len(ell.data), len(ell.columns)
    yield f"it has data of {counts[0]} buckets and columns of {counts[1]}", counts[0] != counts[1]
    for number, (data, places) in enumerate(zip(ell.data, ell.columns, strict=True)):
        bucket = f"of bucket {number}"
        for name, array, dtype in (("data", data, "float32"), ("columns", places, "int32")):
            yield f"{name} {bucket} is not {dtype} of two axes", array.dtype != dtype or array.ndim != 2
        yield f"data {bucket} is {data.shape} and columns {places.shape}", data.shape != places.shape
        yield f"bucket {number} is empty", data.size == 0
        yield (
            f"a column {bucket} is out of range(0, {columns})",
            bool(((places < 0) | (places >= columns)).any()),
        )
        yield f"data {bucket} has NaN or infinity", not np.isfinite(data).all()
        row, entry = np.nonzero(data)
        weights = np.unique(row * columns + places[row, entry])
        yield f"a row {bucket} has a column twice", len(weights) != len(row)
    channels = ell.channels
    yield "channels is not int32 of one axis", channels.dtype != "int32" or channels.ndim != 1
    held = sum(len(data) for data in ell.data)
    yield f"the buckets have {held} rows, not {rows}", held != rows
    yield f"channels is no order of {rows}", not np.array_equal(np.sort(channels), np.arange(rows))


def _split(ell: Ell) -> list[np.ndarray]:
    """The channels of each bucket."""
    return np.split(ell.channels, np.cumsum([len(data) for data in ell.data])[:-1])


def arrays(ell: Ell, conv: Conv2d, algorithm: str, tile: RunTile | None = None) -> tuple[np.ndarray, ...]:
    """What `conv2d` takes after x: data and offsets of each bucket, and of several the row of each channel.

    offsets: int32 (rows, width), from the start of what the algorithm reads. The rows: int32 (CO,), counted
    from the first bucket on. Raises as `conv2d`.
    """
    check_ell(ell, conv.CO, conv.CG * conv.KH * conv.KW)
    planes = _planes(conv, algorithm, tile)
    filters: list[np.ndarray] = []
    for channels, data, columns in zip(_split(ell), ell.data, ell.columns, strict=True):
        c, kh, kw = np.unravel_index(columns, (conv.CG, conv.KH, conv.KW))
        c = channels[:, None] // conv.OG * conv.CG + c
        filters += [data, runs.offset(conv, planes, algorithm == "gemm", c, kh, kw).astype("int32")]
    return (*filters, np.argsort(ell.channels).astype("int32")) if len(ell.data) > 1 else tuple(filters)


def conv2d(ell: Ell, conv: Conv2d, algorithm: str, tile: RunTile | None = None) -> tirx.PrimFunc:
    """A function of x (N, CI, H, W) and of `arrays`, to (N, CO, OH, OW).

    algorithm: a key of `runs.PACKS`. tile: the outputs for which spatial_pack packs inputs together; the
    others have none. Raises ModelError where the ELL is malformed, ValueError for a tile too many or missing.
    """
    check_ell(ell, conv.CO, conv.CG * conv.KH * conv.KW)
    x = te.placeholder(runs.extents(conv.N, conv.CI, conv.H, conv.W), name="x")
    read = _source(x, conv, algorithm, tile)
    arguments, sums = [x], []
    for number, data in enumerate(ell.data):
        shape = runs.extents(*data.shape)
        weights = te.placeholder(shape, name=f"data_{number}")
        offsets = te.placeholder(shape, "int32", name=f"offsets_{number}")
        arguments += [weights, offsets]
        sums.append(_sum(weights, offsets, read, conv, tile, f"ell_{algorithm}_{number}"))
    rows = te.placeholder(runs.extents(conv.CO), "int32", name="rows")
    arguments += [rows] if len(sums) > 1 else []
    function = te.create_prim_func([*arguments, _unpack(sums, rows, conv, tile)])
    # op_pattern: kOutEWiseFusable of tvm/relax/op_attr_types.h
    return function.with_attr({"op_pattern": 4, "tirx.noalias": True})


def _planes(conv: Conv2d, algorithm: str, tile: RunTile | None) -> Planes:
    """How a channel of what the outputs read lies in memory."""
    if (tile is not None) != (algorithm == "spatial_pack"):
        raise ValueError(f"{algorithm} is {'not ' if tile else ''}computed in tiles")
    return runs.source(conv, tile or _whole(conv), algorithm).planes


def _whole(conv: Conv2d) -> RunTile:
    """The tile that has all outputs of a channel."""
    return RunTile(conv.OH, conv.OW, 1)


def _source(x: Any, conv: Conv2d, algorithm: str, tile: RunTile | None) -> Read:
    """Pack what the algorithm reads, and tell how it is read."""
    planes = _planes(conv, algorithm, tile)
    height, width = (tile or _whole(conv)).height, (tile or _whole(conv)).width
    (sh, sw), (dh, dw), (top, left) = conv.stride, conv.dilation, conv.padding[:2]
    if algorithm != "gemm":
        dh, dw = 1, 1  # the planes are phases of the image, not places of the filter

    def element(n: Any, *axes: Any) -> Any:
        y, x_ = axes[:-1] or (0, 0)
        c, a, b, row, column = planes.position(axes[-1])
        h, w = (y * height + row) * sh + a * dh - top, (x_ * width + column) * sw + b * dw - left
        inside = tirx.all(h >= 0, h < conv.H, w >= 0, w < conv.W)
        return tirx.if_then_else(inside, x[n, c, h, w], 0.0)

    if algorithm == "direct" and planes.is_input(conv):
        # All channels of the image as one row: arrays are contiguous.
        return lambda n, place, offset, h, w: x[n, 0, 0, offset + h * planes.pitch + w]
    counts = runs.tile_counts(conv, tile) if tile else ()
    shape = runs.extents(conv.N, *counts, conv.CI * planes.size)
    name, role = (runs.PACKS[algorithm], "pack") if runs.PACKS[algorithm] else ("pad", "pad")
    packed = te.compute(shape, element, name=name, attrs={"role": role})
    return lambda n, place, offset, h, w: packed[(n, *place, offset + h * planes.pitch + w)]


def _sum(weights: Any, offsets: Any, read: Read, conv: Conv2d, tile: RunTile | None, name: str) -> Any:
    """The outputs of the rows of a bucket."""
    rows, width = weights.shape
    k = te.reduce_axis((0, width), "k")
    outputs = (*runs.tile_counts(conv, tile), tile.height, tile.width) if tile else (conv.OH, conv.OW)

    def element(n: Any, row: Any, *axes: Any) -> Any:
        *place, h, w = axes
        return te.sum(weights[row, k] * read(n, place, offsets[row, k], h, w), axis=[k])

    shape = (*runs.extents(conv.N), rows, *runs.extents(*outputs))
    return te.compute(shape, element, name=name, attrs={"role": "sparse"})


def _unpack(sums: list[Any], rows: Any, conv: Conv2d, tile: RunTile | None) -> Any:
    """The rows of all buckets in the order of the output channels, and their tiles put back to NCHW."""
    starts = np.cumsum([0, *(int(each.shape[1]) for each in sums)]).tolist()

    def element(n: Any, o: Any, h: Any, w: Any) -> Any:
        place = [h, w]
        if tile:
            place = [h // tile.height, w // tile.width, h % tile.height, w % tile.width]
        if len(sums) == 1:
            return sums[0](n, o, *place)
        value = sums[-1](n, rows[o] - starts[-2], *place)
        for each, (start, end) in reversed(list(zip(sums, pairwise(starts[:-1]), strict=False))):
            value = tirx.if_then_else(rows[o] < end, each(n, rows[o] - start, *place), value)
        return value

    shape = runs.extents(conv.N, conv.CO, conv.OH, conv.OW)
    return te.compute(shape, element, name="unpack", attrs={"role": "unpack"})
