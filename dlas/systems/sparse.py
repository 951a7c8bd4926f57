"""Sparse convolutions in a network: which layers get them, how their work is cut, and what they ship."""

from __future__ import annotations

from math import ceil

import numpy as np
from tvm import tirx

from dlas.algorithms import runs, sparse
from dlas.algorithms.convolution import Conv2d
from dlas.algorithms.csr import pack_csr
from dlas.algorithms.runs import RunTile, Source
from dlas.algorithms.sparse import SparseTile
from dlas.systems import tiles
from dlas.values import Compiler, Csr

FORMATS = ("dense", "blocked", "csr", "csr_packed", "auto", "ell")
CACHE_BYTES = 24 * 1024  # of the 32 KiB or more that every core has as its first cache
CHAINS_VECTORS = 8  # a multiply-add takes four cycles, and two start in each
MAX_CHAINS = 4
LINE_ELEMENTS = 16
ROW_NONZEROS = 8  # a row shorter than that is not worth an interruption

# Cycles, fitted to microbenchmarks of the inner loop on a Zen 3 with AVX2. Only their relations count.
VECTOR_CYCLES = 0.75
NONZERO_CYCLES = 1.0
ROW_CYCLES = 10.0
ROW_VECTOR_CYCLES = 2.0
COPY_CYCLES = 1.5
CACHE_MISS_FACTOR = 1.4
DENSE_VECTOR_CYCLES = 0.6
MARGIN = 0.85
# Of a filter's weights; chosen, not measured: a multiply-add of ELL reads three numbers, and not two.
ELL_LEAST_ZEROS = 0.8


def choose_tile(
    conv: Conv2d, compiler: Compiler, algorithm: str, nonzeros: int, is_packed: bool
) -> SparseTile:
    """The tile with the least cycles by `estimate_cycles`. A filter in plain CSR is not taken in parts."""
    return rank_tiles(conv, compiler, algorithm, nonzeros, is_packed)[0]


def rank_tiles(
    conv: Conv2d, compiler: Compiler, algorithm: str, nonzeros: int, is_packed: bool
) -> list[SparseTile]:
    """The tiles whose sums fit the registers, the one that `choose_tile` takes first."""
    cuts = (
        cut(conv, tile, algorithm, nonzeros)
        if is_packed
        else SparseTile(tile.height, tile.width, tile.vector)
        for tile in runs.tiles(conv, compiler.vector_lanes)
        if runs.source(conv, tile, algorithm).vectors <= tiles.count_sums(compiler)
    )
    return sorted(cuts, key=lambda tile: estimate_cycles(conv, tile, algorithm, nonzeros))


def estimate_cycles(conv: Conv2d, tile: SparseTile, algorithm: str, nonzeros: int) -> float:
    """What a sparse convolution takes on one core, roughly: for comparing tiles, and with dense ones."""
    made = runs.source(conv, tile, algorithm)
    down, across = runs.tile_counts(conv, tile)
    vectors = made.vectors
    waits = CHAINS_VECTORS / 2 / tile.chains
    of_nonzero = max(VECTOR_CYCLES * vectors + NONZERO_CYCLES, waits)
    if _read_bytes(conv, tile, made) / tile.parts > CACHE_BYTES * 4 / 3:
        of_nonzero *= CACHE_MISS_FACTOR
    of_row = ROW_CYCLES + ROW_VECTOR_CYCLES * vectors * (1 + tile.chains) / 2
    copied = 0 if made.image.is_input(conv) else conv.CI * made.image.size
    if made.packed:
        copied += down * across * conv.CI * made.packed.size
    of_tile = nonzeros * of_nonzero + conv.CO * tile.parts * of_row
    return conv.N * (down * across * of_tile + copied / tile.vector * COPY_CYCLES)


def cut(conv: Conv2d, tile: RunTile, algorithm: str, nonzeros: int) -> SparseTile:
    """The tile with parts of the input channels that fit the cache, and chains as a short tile needs."""
    made, parts = runs.source(conv, tile, algorithm), 1
    chains = max(1, min(MAX_CHAINS, CHAINS_VECTORS // made.vectors))
    if conv.groups == 1:
        wanted = ceil(_read_bytes(conv, tile, made) / CACHE_BYTES)
        parts = max(1, min(wanted, nonzeros // (conv.CO * ROW_NONZEROS), conv.CI))
    return SparseTile(tile.height, tile.width, tile.vector, parts, chains)


def _read_bytes(conv: Conv2d, tile: RunTile, made: Source) -> int:
    """What one tile reads of the inputs of a group, as its cache sees it."""
    planes = made.planes
    halo = (conv.KH - 1) * conv.dilation[0] // conv.stride[0]
    columns = planes.pitch if made.packed else min(planes.pitch, tile.width + conv.KW + LINE_ELEMENTS)
    rows = planes.rows if made.packed else min(planes.rows, tile.height + halo)
    return 4 * conv.CG * planes.down * planes.across * rows * columns


def choose_format(weight: np.ndarray, conv: Conv2d, compiler: Compiler, algorithm: str) -> str:
    """csr_packed where it is estimated to be faster than dense by a margin, else dense.

    The margin is for what the estimates do not know; it is chosen so that no pruned network was slower than
    its dense self, and costs the gain of layers near the break-even.
    """
    nonzeros = int(np.count_nonzero(weight))
    tile = choose_tile(conv, compiler, algorithm, nonzeros, is_packed=True)
    limit = MARGIN * estimate_dense_cycles(conv, compiler)
    return "csr_packed" if estimate_cycles(conv, tile, algorithm, nonzeros) < limit else "dense"


def choose_gpu_format(weight: np.ndarray) -> str:
    """ell where enough of the weights are zero, else dense: no GPU's time is estimated."""
    return "ell" if 1 - np.count_nonzero(weight) / weight.size >= ELL_LEAST_ZEROS else "dense"


def estimate_dense_cycles(conv: Conv2d, compiler: Compiler) -> float:
    """What a dense convolution takes on one core, as roughly as `estimate_cycles`."""
    vectors = tiles.count_vectors(tiles.choose(conv, compiler), conv, compiler)
    return conv.N * vectors * conv.CG * conv.KH * conv.KW * DENSE_VECTOR_CYCLES


def convolution(
    weight: np.ndarray,
    conv: Conv2d,
    algorithm: str,
    format: str,
    compiler: Compiler,
    tile: SparseTile | None = None,
) -> tuple[tirx.PrimFunc, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function that computes a convolution in a sparse format, and the arrays that it takes after x.

    weight: float32 (CO, CI/groups, KH, KW). format: csr or csr_packed. tile: chosen here where it is
    not given.
    """
    csr = pack_csr(weight)
    is_packed = format == "csr_packed"
    tile = tile or choose_tile(conv, compiler, algorithm, len(csr.data), is_packed)
    filter_ = sparse.pack(csr, conv, tile, algorithm) if is_packed else csr
    return sparse.conv2d(filter_, conv, tile, algorithm), _arrays(filter_)


def _arrays(filter_: Csr | sparse.Packed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a sparse convolution gets of its filter: data, columns, indptr."""
    if isinstance(filter_, sparse.Packed):
        return filter_.data, filter_.offsets, filter_.indptr
    missing = max(0, 1 - len(filter_.data))  # an array of no elements is none to TVM
    data, indices = (np.pad(array, (0, missing)) for array in (filter_.data, filter_.indices))
    return data, indices, filter_.indptr[None]
