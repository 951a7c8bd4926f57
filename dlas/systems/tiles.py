"""Choosing the register tile of a convolution from the target's vector unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from dlas.algorithms import blocks, runs
from dlas.algorithms.blocks import FLOAT32_BYTES
from dlas.algorithms.convolution import Conv2d, Tile, ceil_div, in_extent
from dlas.algorithms.integer import Dot
from dlas.algorithms.runs import RunTile
from dlas.values import Compiler

MAX_ACCUMULATORS = 16  # more gained nothing on 32 registers, and from 28 on they spill
MAX_VECTORS = 4
MAX_ROWS = 4  # of a tile: what lies below each other is read from lines of its own
L1_BYTES = 24 * 1024  # of a filter, beside what it is multiplied with
L2_BYTES_PER_CYCLE = 17.0  # of a filter that comes from there anew for each tile; fitted on a Zen 3
LOADS_PER_CYCLE = 1.7
GPU_THREADS = 4096  # of all blocks: eight for each core of a Xavier's GPU
GPU_COLUMNS = 32  # of a tile: neighbouring threads read neighbouring inputs
GPU_LANES = (64, 32, 16, 8, 4, 2, 1)
GPU_ROWS = (16, 8, 4, 2, 1)
GPU_VECTORS = (4, 2, 1)  # of a filter's lanes, each thread's
GPU_SUMS = 32  # of a thread, in registers
GPU_BYTES = 24 * 1024  # of a block's shared memory, 48 KiB where it is any good: two blocks fit
GPU_MEMORY = 4.0  # times as dear as what is loaded by a thread from nearby: what its block loads from afar


def choose(conv: Conv2d, compiler: Compiler) -> Tile:
    """The tile that wastes least, and then keeps most accumulators in registers.

    Waste is what the last tiles compute past the edge of the output; a few accumulators cannot hide
    the latency of a multiply-add.
    """
    return rank(conv, compiler)[0]


def rank(conv: Conv2d, compiler: Compiler) -> list[Tile]:
    """The tiles whose sums fit the registers, the one that `choose` takes first."""
    limit = min(MAX_ACCUMULATORS, count_sums(compiler))
    candidates = [
        Tile(lanes, height, width)
        for lanes in _lane_counts(conv, compiler.vector_lanes)
        for height in range(1, min(conv.OH, limit) + 1)
        for width in range(1, min(conv.OW, limit) + 1)
        if _vectors(lanes, compiler.vector_lanes) * height * width <= limit
    ]
    return sorted(candidates, key=lambda tile: (-_score(tile, conv, compiler), -tile.width))


def is_padded(conv: Conv2d) -> bool:
    """Whether a convolution reads what its input does not have."""
    return any(conv.padding)


def choose_blocked(conv: Conv2d, compiler: Compiler) -> Tile:
    """As `choose`, for activations in blocks of a vector: the tile that takes least cycles."""
    return min(blocked_tiles(conv, compiler), key=lambda tile: estimate_blocked_cycles(conv, tile, compiler))


def blocked_tiles(conv: Conv2d, compiler: Compiler) -> list[Tile]:
    """The tiles whose sums, and what they are added from, fit the registers."""
    vector, registers = compiler.vector_lanes, compiler.vector_registers
    places = [
        Tile(vector, height, width)
        for height in range(1, min(conv.OH, MAX_ROWS) + 1)
        for width in range(1, min(conv.OW, registers) + 1)
    ]
    return [
        replace(tile, lanes=vector * vectors)
        for tile in places
        for vectors in range(1, MAX_VECTORS + 1)
        if vectors * (tile.height * tile.width + 1) < registers
        and (conv.groups == 1 or conv.OG % (vector * vectors) == 0)
    ]


def estimate_blocked_cycles(conv: Conv2d, tile: Tile, compiler: Compiler) -> float:
    """What a dense convolution in blocks takes on one core, for comparing tiles.

    Two multiply-adds start in a cycle, and a sum takes its next addend after four.
    """
    vectors, positions = tile.lanes // compiler.vector_lanes, tile.height * tile.width
    down, across = blocks.tiles(conv, tile)
    step = max(vectors * positions / 2, (vectors + positions) / LOADS_PER_CYCLE, 4.0)
    if 4 * conv.CG * conv.KH * conv.KW * tile.lanes > L1_BYTES:
        step = max(step, 4 * tile.lanes / L2_BYTES_PER_CYCLE)
    return ceil_div(conv.CO, tile.lanes) * down * across * conv.CG * conv.KH * conv.KW * step


def choose_blocked_depthwise(conv: Conv2d, compiler: Compiler) -> Tile:
    """The tile of a depthwise convolution in blocks: as few as cover a row."""
    return blocked_depthwise_tiles(conv, compiler)[0]


def blocked_depthwise_tiles(conv: Conv2d, compiler: Compiler) -> list[Tile]:
    """The tiles of one or two rows whose sums fit the registers, the one that is chosen first."""
    limit = count_sums(compiler)
    candidates = [
        Tile(compiler.vector_lanes, height, width)
        for height in range(1, min(conv.OH, 2) + 1)
        for width in range(1, min(conv.OW, limit // height) + 1)
    ]

    def waste(tile: Tile) -> tuple[int, float]:
        useful = conv.OH * conv.OW / (_covered(conv.OH, tile.height) * _covered(conv.OW, tile.width))
        return tile.height, -useful * (1 - 0.2 / tile.width)

    return sorted(candidates, key=waste)


def _lane_counts(conv: Conv2d, vector: int) -> Iterable[int]:
    counts = [vector * n for n in range(1, MAX_VECTORS + 1)]
    if conv.groups == 1:
        return counts
    return [n for n in (*range(1, vector), *counts) if conv.OG % n == 0]


def count_vectors(tile: Tile, conv: Conv2d, compiler: Compiler) -> int:
    """How many vectors of outputs are computed of one image, with those past its edge."""
    blocks = ceil_div(conv.CO, tile.lanes) * _vectors(tile.lanes, compiler.vector_lanes)
    return blocks * _covered(conv.OH, tile.height) * _covered(conv.OW, tile.width)


def _score(tile: Tile, conv: Conv2d, compiler: Compiler) -> float:
    useful = conv.CO * conv.OH * conv.OW / (count_vectors(tile, conv, compiler) * compiler.vector_lanes)
    in_tile = _vectors(tile.lanes, compiler.vector_lanes) * tile.height * tile.width
    return useful * (1 - 0.5 / in_tile)


def choose_gpu(conv: Conv2d, most_threads: int) -> Tile:
    """What a block of a GPU's threads computes, by `gpu_cost`. most_threads: as in `gpu_share`."""
    width = ceil_div(conv.OW, ceil_div(conv.OW, GPU_COLUMNS))
    lanes = [n for n in GPU_LANES if n == 1 or (n < 2 * conv.CO and (conv.groups == 1 or conv.OG % n == 0))]
    candidates = [
        Tile(n, height, width)
        for n in ([1] if conv.depthwise else lanes)
        for height in GPU_ROWS
        if height < 2 * conv.OH
    ]
    return min(candidates, key=lambda tile: gpu_cost(tile, conv, most_threads))


def gpu_share(height: int, width: int, lanes: int, most_threads: int) -> tuple[int, int]:
    """How many channels and rows of a tile one thread computes, of one column, so that threads are enough.

    >>> gpu_share(height=4, width=32, lanes=16, most_threads=256)
    (4, 2)
    """
    channels = gpu_channels(lanes)
    others = lanes // channels * width
    rows = next(n for n in range(1, height + 1) if height % n == 0 and height // n * others <= most_threads)
    return channels, rows


def gpu_cost(tile: Tile, conv: Conv2d, most_threads: int) -> float:
    """What is loaded for each multiply-add, in numbers, and more where threads are too few to hide it.

    Chosen, not fitted: no GPU was measured. Infinite where a tile does not fit the registers, the threads or,
    with one input channel, the shared memory.
    """
    if tile.lanes // gpu_channels(tile.lanes) * tile.width > most_threads:
        return float("inf")
    channels, rows = gpu_share(tile.height, tile.width, tile.lanes, most_threads)
    down, across = ceil_div(conv.OH, tile.height), ceil_div(conv.OW, tile.width)
    outputs = ceil_div(conv.CO, tile.lanes) * tile.lanes * down * tile.height * across * tile.width
    image = prod(map(in_extent, (tile.height, tile.width), (conv.KH, conv.KW), conv.stride, conv.dilation))
    taps = conv.KH * conv.KW
    of_channel = FLOAT32_BYTES * (tile.lanes * taps + max(image, taps * tile.height * tile.width))
    is_smallest = tile.lanes * tile.height == 1
    if channels * rows > GPU_SUMS or (of_channel > GPU_BYTES and not is_smallest):
        return float("inf")
    of_thread = 1 / channels + 1 / rows
    of_block = GPU_MEMORY * (1 / tile.lanes + 1 / (tile.height * tile.width))
    waste = outputs / (conv.CO * conv.OH * conv.OW)
    return waste * (1 + of_thread + of_block) * max(1.0, GPU_THREADS * channels * rows / outputs)


def gpu_channels(lanes: int) -> int:
    """Of a tile's, those that one thread computes."""
    return next(n for n in GPU_VECTORS if lanes % n == 0)


def choose_depthwise(conv: Conv2d, compiler: Compiler) -> RunTile:
    """The tile whose vectors compute least past its edge, and then the one with most of them."""
    return rank_depthwise(conv, compiler)[0]


def rank_depthwise(conv: Conv2d, compiler: Compiler) -> list[RunTile]:
    """All tiles of a depthwise convolution, the one that `choose_depthwise` takes first."""
    limit = count_sums(compiler)

    def score(tile: RunTile) -> float:
        vectors, (down, across) = runs.source(conv, tile, "direct").vectors, runs.tile_counts(conv, tile)
        useful = conv.OH * conv.OW / (down * across * vectors * tile.vector)
        return useful * (1 - 0.5 / vectors) if vectors <= limit else -vectors

    return sorted(runs.tiles(conv, compiler.vector_lanes), key=score, reverse=True)


def count_sums(compiler: Compiler) -> int:
    """How many vectors of sums fit the registers, beside what is multiplied."""
    return compiler.vector_registers * 3 // 4


def _vectors(lanes: int, vector: int) -> int:
    return ceil_div(lanes, vector)


def _covered(extent: int, tile: int) -> int:
    return ceil_div(extent, tile) * tile


def choose_integer(conv: Conv2d, compiler: Compiler, dot: Dot) -> Tile:
    """As `choose`, for integers. Every sum has a register, and so has what `dot` needs beside them.

    Loads count too, a quarter of a dot product each: that chose well on a Zen 4 with VNNI.
    """
    candidates = [
        Tile(dot.lanes * vectors, height, width)
        for vectors in range(1, MAX_VECTORS + 1)
        for height in range(1, conv.OH + 1)
        for width in range(1, conv.OW + 1)
        if vectors * height * width + vectors * dot.weight_registers + dot.other_registers
        <= compiler.vector_registers
        and (conv.groups == 1 or conv.OG % (dot.lanes * vectors) == 0)  # a block lies within one group
    ]

    def score(tile: Tile) -> tuple[float, int]:
        vectors, positions = tile.lanes // dot.lanes, tile.height * tile.width
        done = (
            ceil_div(conv.OG, tile.lanes)
            * tile.lanes
            * _covered(conv.OH, tile.height)
            * _covered(conv.OW, tile.width)
        )
        useful = conv.OG * conv.OH * conv.OW / done
        loads = (vectors + positions) / (vectors * positions)
        return useful / (1 + 0.25 * loads) * (1 - 0.5 / (vectors * positions)), tile.width

    return max(candidates, key=score)


def choose_integer_depthwise(conv: Conv2d, compiler: Compiler, dot: Dot) -> Tile:
    """The tile of a depthwise convolution of integers: one row, a vector of channels at each position."""
    widths = range(1, min(conv.OW, compiler.vector_registers // 4) + 1)
    return max(
        (Tile(dot.lanes, 1, width) for width in widths),
        key=lambda tile: conv.OW / _covered(conv.OW, tile.width) * (1 - 0.2 / tile.width),
    )
