"""Sparse convolutions compute what the dense oracle computes, whatever is zero and however they are cut."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from dlas.algorithms import reference, runs, sparse
from dlas.algorithms.convolution import Conv2d
from dlas.algorithms.csr import pack_csr, unpack_csr
from dlas.algorithms.runs import RunTile
from dlas.algorithms.sparse import SparseTile
from dlas.errors import ModelError
from dlas.systems import census, legalize, passes
from dlas.systems import sparse as formats
from dlas.systems.export import generate
from dlas.systems.kernels import Kernel
from dlas.values import Compiler, Csr
from tests.algorithms.test_convolutions import COMPILERS, SHAPES, assert_close, convolutions, operands
from tests.systems.lowering import AVX2, AVX512, NEON, compile_and_run, relax_conv2d

ALGORITHMS = sorted(runs.PACKS)
FORMATS = ("csr", "csr_packed")


def pruned(conv: Conv2d, zeros: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An input and a filter, of which so much is zero; its first row is empty and its last one full."""
    x, weight = operands(conv, seed)
    kept = weight.copy()
    weight[np.random.default_rng(seed + 1).random(weight.shape) < zeros] = 0
    weight[0] = 0
    weight[-1] = kept[-1]
    return x, weight


def expected_output(conv: Conv2d, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """With the bias and ReLU of `relax_conv2d`."""
    bias = np.arange(conv.CO).reshape(1, -1, 1, 1) / conv.CO - 0.5
    return np.maximum(reference.conv2d(x, weight, conv) + bias, 0)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sparse_convolution_is_exact(shape: str, algorithm: str, format: str, compiler: str) -> None:
    conv = SHAPES[shape]
    x, weight = pruned(conv, 0.7)
    mod = relax_conv2d(conv, weight, "bias and relu")
    actual = compile_and_run(mod, algorithm, "scheduled", x, COMPILERS[compiler], format=format)
    assert_close(actual, expected_output(conv, x, weight))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", ["plain", "grouped, odd", "unequal strides", "batch", "one output"])
def test_a_minimal_sparse_convolution_is_exact(shape: str, algorithm: str, format: str) -> None:
    conv = SHAPES[shape]
    x, weight = pruned(conv, 0.7)
    actual = compile_and_run(relax_conv2d(conv, weight), algorithm, "minimal", x, format=format)
    assert_close(actual, reference.conv2d(x, weight, conv))


@pytest.mark.parametrize("zeros", [0.0, 1.0])
@pytest.mark.parametrize("format", FORMATS)
def test_a_filter_of_zeros_and_one_without_any(format: str, zeros: float) -> None:
    conv = SHAPES["odd channels"]
    x, weight = operands(conv)
    weight *= 1 - zeros
    mod = relax_conv2d(conv, weight, "bias and relu")
    actual = compile_and_run(mod, "direct", "scheduled", x, format=format)
    assert_close(actual, expected_output(conv, x, weight))


def run_tile(conv: Conv2d, tile: SparseTile, algorithm: str, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The output of a sparse convolution that is cut in a way of the caller's, by the hand schedule."""
    filter_ = sparse.pack(pack_csr(weight), conv, tile, algorithm)
    function = sparse.conv2d(filter_, conv, tile, algorithm)
    builder = relax.BlockBuilder()
    image = relax.Var("x", relax.TensorType(x.shape, "float32"))
    with builder.function("main", [image]):
        with builder.dataflow():
            arrays = (filter_.data, filter_.offsets, filter_.indptr)
            kernel = Kernel(function, arrays, "sparse", (conv.N, conv.CO, conv.OH, conv.OW))
            y = builder.emit(legalize.call_kernel(builder, kernel, image))
            out = builder.emit_output(y)
        builder.emit_func_output(out)
    lowered = passes.schedule_functions(builder.get(), "scheduled", AVX2)
    return relax.VirtualMachine(generate(lowered, AVX2), tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


@settings(max_examples=40)
@given(conv=convolutions(), data=st.data(), algorithm=st.sampled_from(ALGORITHMS))
def test_any_convolution_cut_in_any_way_is_exact(conv: Conv2d, data: st.DataObject, algorithm: str) -> None:
    x, weight = pruned(conv, data.draw(st.sampled_from([0.0, 0.5, 0.95])))
    tile = SparseTile(
        height=data.draw(st.integers(1, conv.OH)),
        width=data.draw(st.integers(1, conv.OW)),
        vector=data.draw(st.sampled_from([4, 8])),
        parts=data.draw(st.integers(1, conv.CG)) if conv.groups == 1 else 1,
        chains=data.draw(st.sampled_from([1, 2, 4])),
    )
    assert_close(run_tile(conv, tile, algorithm, x, weight), reference.conv2d(x, weight, conv))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_few_tiles_and_many_are_exact(algorithm: str) -> None:
    conv = Conv2d(1, 12, 24, 24, 40, 3, 3, padding=(1, 1, 1, 1))
    x, weight = pruned(conv, 0.8)
    for tile in (
        SparseTile(2, 12, 8),
        SparseTile(12, 12, 8),
        SparseTile(2, 24, 8, 3),
        SparseTile(24, 24, 8, 5),
    ):
        assert_close(run_tile(conv, tile, algorithm, x, weight), reference.conv2d(x, weight, conv))


@given(conv=convolutions(), data=st.data(), algorithm=st.sampled_from(ALGORITHMS))
def test_packed_rows_hold_the_filter(conv: Conv2d, data: st.DataObject, algorithm: str) -> None:
    _, weight = pruned(conv, 0.6)
    parts = data.draw(st.integers(1, conv.CG)) if conv.groups == 1 else 1
    tile = SparseTile(conv.OH, conv.OW, 8, parts, data.draw(st.sampled_from([1, 2, 4])))
    packed = sparse.pack(pack_csr(weight), conv, tile, algorithm)
    assert packed.indptr.shape == (parts, conv.CO + 1)
    lengths = np.diff(packed.indptr)
    assert (lengths >= 0).all()
    assert (lengths % tile.chains == 0).all()
    assert packed.indptr[0, 0] == 0
    assert (packed.indptr[1:, 0] == packed.indptr[:-1, -1]).all()
    planes = runs.source(conv, tile, algorithm).planes
    per_part = -(-conv.CG // parts)
    assert packed.offsets.min() >= 0
    assert packed.offsets.max() < per_part * planes.size
    by_tap = algorithm == "gemm"
    places = {
        int(runs.offset(conv, planes, by_tap, c, kh, kw)): (c, kh, kw)
        for c in range(per_part)
        for kh in range(conv.KH)
        for kw in range(conv.KW)
    }
    rebuilt = np.zeros_like(weight)
    for part, rows in enumerate(packed.indptr):
        for o, (start, end) in enumerate(pairwise(rows)):
            for offset, value in zip(packed.offsets[start:end], packed.data[start:end], strict=True):
                if value:
                    c, kh, kw = places[int(offset)]
                    rebuilt[o, part * per_part + c, kh, kw] = value
    np.testing.assert_array_equal(rebuilt, weight)


@settings(max_examples=300)
@given(conv=convolutions(), data=st.data(), algorithm=st.sampled_from(ALGORITHMS))
def test_no_tile_reads_past_its_channels(conv: Conv2d, data: st.DataObject, algorithm: str) -> None:
    tile = RunTile(
        data.draw(st.integers(1, conv.OH)),
        data.draw(st.integers(1, conv.OW)),
        data.draw(st.sampled_from([4, 8, 16])),
    )
    made, (down, across) = runs.source(conv, tile, algorithm), runs.tile_counts(conv, tile)
    planes = made.planes
    furthest = max(
        int(runs.offset(conv, planes, algorithm == "gemm", 0, kh, kw))
        for kh in range(conv.KH)
        for kw in range(conv.KW)
    )
    if made.packed is None:
        furthest += (down - 1) * tile.height * planes.pitch + (across - 1) * tile.width
    furthest += (made.runs - 1) * planes.pitch + made.length - 1
    assert furthest < planes.size
    # What outputs read is there: the last row and column of the last tile, and the filter's last place.
    rows, columns = (
        (down * tile.height, across * tile.width) if made.packed is None else (tile.height, tile.width)
    )
    assert planes.rows >= min(rows, conv.OH)
    assert planes.pitch >= columns


def test_offsets_are_as_short_as_they_can_be() -> None:
    conv = Conv2d(1, 64, 32, 32, 8, 3, 3, padding=(1, 1, 1, 1))
    _, weight = pruned(conv, 0.9)
    whole = sparse.pack(pack_csr(weight), conv, SparseTile(2, 32, 8), "direct")
    in_parts = sparse.pack(pack_csr(weight), conv, SparseTile(2, 32, 8, parts=4), "direct")
    assert (whole.offsets.dtype, in_parts.offsets.dtype) == ("int32", "int16")
    x, weight = pruned(conv, 0.9)
    for parts in (1, 4):
        actual = run_tile(conv, SparseTile(2, 32, 8, parts), "direct", x, weight)
        assert_close(actual, reference.conv2d(x, weight, conv))


def test_groups_are_not_taken_in_parts() -> None:
    conv = SHAPES["grouped"]
    with pytest.raises(ValueError, match="not taken in parts"):
        sparse.pack(pack_csr(operands(conv)[1]), conv, SparseTile(2, 8, 8, parts=2), "gemm")


@pytest.mark.parametrize("compiler", [AVX2, AVX512, NEON], ids=["avx2", "avx512", "neon"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chosen_tiles_fit_the_registers(algorithm: str, compiler: Compiler) -> None:
    for conv in (
        Conv2d(1, 64, 32, 32, 64, 3, 3, padding=(1, 1, 1, 1)),
        Conv2d(1, 512, 4, 4, 512, 3, 3, padding=(1, 1, 1, 1)),
        Conv2d(1, 16, 112, 112, 96, 1, 1),
        Conv2d(1, 512, 28, 28, 1024, 1, 1, stride=(2, 2)),
    ):
        nonzeros = conv.CO * conv.CG * conv.KH * conv.KW // 10
        tile = formats.choose_tile(conv, compiler, algorithm, nonzeros, is_packed=True)
        vectors = runs.source(conv, tile, algorithm).vectors * tile.chains
        assert 1 <= vectors <= compiler.vector_registers * 3 // 4
        plain = formats.choose_tile(conv, compiler, algorithm, nonzeros, is_packed=False)
        assert (plain.parts, plain.chains) == (1, 1)


def test_what_is_sparse_and_what_is_not_is_counted() -> None:
    for shape, format, expected in (
        ("plain", "csr", (1, 1, 0)),
        ("plain", "csr_packed", (1, 1, 0)),
        ("plain", "dense", (1, 0, 0)),
        ("depthwise", "csr", (0, 0, 1)),
        ("grouped", "csr_packed", (1, 1, 0)),
    ):
        conv = SHAPES[shape]
        _, weight = pruned(conv, 0.9)
        _, found = passes.lower(relax_conv2d(conv, weight), "gemm", "scheduled", AVX2, format=format)
        assert (found.as_asked, found.sparse, found.depthwise) == expected, (shape, format)
        assert found.fallbacks == ()


def test_a_dense_kernel_is_not_as_asked_where_csr_is() -> None:
    conv = SHAPES["plain"]
    mod, _ = passes.lower(relax_conv2d(conv, pruned(conv, 0.9)[1]), "gemm", "minimal", AVX2)
    for format, as_asked in (("csr", 0), ("csr_packed", 0), ("auto", 1), ("dense", 1)):
        found = census.count_operators(mod, "gemm", ["conv2d"], format=format)
        assert (found.as_asked, found.sparse) == (as_asked, 0)


def test_zeros_are_not_shipped() -> None:
    conv = Conv2d(1, 64, 8, 8, 64, 3, 3, padding=(1, 1, 1, 1))
    _, weight = operands(conv)
    weight[np.abs(weight) < np.quantile(np.abs(weight), 0.9)] = 0
    nonzeros = np.count_nonzero(weight)
    shipped = {}
    for format in formats.FORMATS:
        _, found = passes.lower(relax_conv2d(conv, weight), "direct", "scheduled", AVX2, format=format)
        assert found.dense_weight_bytes == weight.nbytes
        assert found.weight_sparsity_fraction == pytest.approx(0.9, abs=1e-3)
        shipped[format] = found.weight_bytes
    assert shipped["dense"] == weight.nbytes
    assert shipped["csr"] == 8 * nonzeros + 4 * (conv.CO + 1)
    assert 6 * nonzeros < shipped["csr_packed"] < 7 * nonzeros + 4 * 20 * (conv.CO + 1)
    assert shipped["auto"] == shipped["csr_packed"]


def test_multiply_adds_are_weighted_by_their_uses() -> None:
    """A filter of 4x4 outputs counts 16 times what it counts for one."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 2, 6, 6), "float32"))
    first, second = np.zeros((2, 2, 3, 3), "float32"), np.ones((2, 2, 4, 4), "float32")
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.conv2d(x, relax.const(first)))
            out = builder.emit_output(relax.op.nn.conv2d(y, relax.const(second)))
        builder.emit_func_output(out)
    found = census.measure_sparsity(builder.get())
    assert found.weights_fraction == 36 / (36 + 64)
    assert found.macs_fraction == 36 * 16 / (36 * 16 + 64)


def test_what_is_malformed_is_not_compiled() -> None:
    conv = SHAPES["plain"]
    csr = pack_csr(operands(conv)[1])
    outside = replace(csr, indices=csr.indices + 1)
    with pytest.raises(ModelError, match="malformed CSR"):
        sparse.pack(outside, conv, SparseTile(2, 9, 8), "direct")
    with pytest.raises(ModelError, match="malformed CSR"):
        sparse.conv2d(outside, conv, SparseTile(2, 9, 8), "direct")
    for tile in (SparseTile(2, 9, 8, parts=2), SparseTile(2, 9, 8, chains=2)):
        with pytest.raises(ValueError, match="neither parts nor chains"):
            sparse.conv2d(csr, conv, tile, "direct")


def parallel_tasks(conv: Conv2d, tile: SparseTile) -> list[int]:
    """Extents of the parallel loops of a scheduled sparse convolution: the last one computes."""
    filter_ = sparse.pack(pack_csr(operands(conv)[1]), conv, tile, "direct")
    script = passes.schedule_function(sparse.conv2d(filter_, conv, tile, "direct"), AVX2).script()
    return [int(extent) for extent in re.findall(r"T\.parallel\(T\.int64\((\d+)\)\)", script)]


def test_every_thread_gets_work() -> None:
    pads = {"padding": (1, 1, 1, 1)}
    many = Conv2d(1, 4, 32, 32, 64, 3, 3, **pads)
    assert parallel_tasks(many, SparseTile(2, 32, 8))[-1] == 16  # tiles, each with all of its channels
    few = Conv2d(1, 4, 8, 8, 64, 3, 3, **pads)
    assert parallel_tasks(few, SparseTile(8, 8, 8))[-1] == 32  # two channels each
    prime = Conv2d(1, 4, 8, 8, 61, 3, 3, **pads)
    assert parallel_tasks(prime, SparseTile(8, 8, 8))[-1] == 61
    assert parallel_tasks(replace(few, CO=5), SparseTile(8, 8, 8))[-1] == 5


def test_unpacking_checks_what_it_unpacks() -> None:
    csr = pack_csr(operands(SHAPES["plain"])[1])
    outside = replace(csr, indices=csr.indices + 1)
    assert isinstance(outside, Csr)
    with pytest.raises(ModelError, match="malformed CSR"):
        unpack_csr(outside, (16, 8, 3, 3))
