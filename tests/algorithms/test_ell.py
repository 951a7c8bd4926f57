"""ELL in buckets: what is packed comes back in as few entries as can be; convolutions over it are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlas.algorithms import ell, reference, runs
from dlas.algorithms.convolution import Conv2d
from dlas.algorithms.csr import pack_csr
from dlas.algorithms.ell import Ell, check_ell, cut_lengths, pack_ell, unpack_ell
from dlas.algorithms.runs import RunTile
from dlas.errors import ModelError
from dlas.systems.codegen import llvm_target
from tests.algorithms.test_convolutions import SHAPES, assert_close, operands
from tests.systems.lowering import AVX2

CONVOLUTIONS = (
    "plain",
    "odd channels",
    "pointwise",
    "pointwise, strided",
    "one output",
    "unequal strides",
    "uneven padding",
    "more padding than kernel",
    "dilated",
    "grouped, odd",
    "depthwise, two each, strided",
    "batch",
)
TILES = {"direct": None, "gemm": None, "spatial_pack": RunTile(3, 5, 1)}


def pruned(conv: Conv2d, zeros: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """An input and a filter, of which so much is zero; its first row is empty and its last one full."""
    x, weight = operands(conv)
    kept = weight.copy()
    weight[np.random.default_rng(1).random(weight.shape) < zeros] = 0
    weight[0] = 0
    weight[-1] = kept[-1]
    return x, weight


def compile_and_run(packed: Ell, conv: Conv2d, algorithm: str, x: np.ndarray) -> np.ndarray:
    """The output on this CPU, unscheduled, of garbage that what is not written would keep."""
    tile = TILES[algorithm]
    function = ell.conv2d(packed, conv, algorithm, tile).with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": function}), llvm_target(AVX2))
    out = tvm.runtime.tensor(np.full((conv.N, conv.CO, conv.OH, conv.OW), np.nan, "float32"))
    built["main"](*map(tvm.runtime.tensor, (x, *ell.arrays(packed, conv, algorithm, tile))), out)
    return out.numpy()


@given(
    weight=arrays.arrays(
        "float32",
        arrays.array_shapes(min_dims=4, max_dims=4, max_side=5),
        elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]),
    ),
    buckets=st.integers(1, 6),
)
def test_what_is_packed_comes_back(weight: np.ndarray, buckets: int) -> None:
    packed = pack_ell(pack_csr(weight), buckets)
    assert 1 <= len(packed.data) <= buckets
    np.testing.assert_array_equal(unpack_ell(packed, weight.shape), weight)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 4))
def test_no_cut_has_fewer_entries(lengths: list[int], buckets: int) -> None:
    def entries(widths: tuple[int, ...]) -> int:
        return sum(min(width for width in widths if width >= length) for length in lengths)

    distinct = sorted(set(lengths))
    others = [
        (*chosen, distinct[-1])
        for count in range(min(buckets, len(distinct)))
        for chosen in combinations(distinct[:-1], count)
    ]
    widths = cut_lengths(np.array(lengths), buckets)
    assert widths == sorted(set(widths))
    assert len(widths) <= buckets
    assert entries(tuple(widths)) == min(map(entries, others))


def test_more_buckets_have_less_padding() -> None:
    _, weight = pruned(Conv2d(1, 64, 32, 32, 64, 3, 3), 0.9)
    csr = pack_csr(weight[1:-1])
    padded = [pack_ell(csr, buckets).padded_fraction for buckets in (1, 2, 3, 4)]
    assert padded == sorted(padded, reverse=True)
    assert padded[2] < 0.5 * padded[0]
    one = pack_ell(csr, 1)
    assert one.padded_fraction == pytest.approx(1 - len(csr.data) / one.data[0].size)
    assert one.channels.tolist() == list(range(62))


def test_rows_of_one_length_need_one_bucket() -> None:
    packed = pack_ell(pack_csr(np.ones((4, 2, 1, 1), "float32")), 3)
    assert [data.shape for data in packed.data] == [(4, 2)]
    assert packed.padded_fraction == 0


def test_what_fills_a_row_up_reads_what_the_row_reads() -> None:
    """So that it costs no further memory, and an infinity elsewhere does not become a NaN here."""
    weight = np.zeros((2, 4, 1, 1), "float32")
    weight[0, 2] = 1
    weight[1] = 1
    (columns,) = pack_ell(pack_csr(weight), 1).columns
    assert columns.tolist() == [[2, 2, 2, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("algorithm", TILES)
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_a_convolution_is_exact(shape: str, algorithm: str) -> None:
    conv = SHAPES[shape]
    x, weight = pruned(conv)
    buckets = 1 + CONVOLUTIONS.index(shape) % 4
    actual = compile_and_run(pack_ell(pack_csr(weight), buckets), conv, algorithm, x)
    assert_close(actual, reference.conv2d(x, weight, conv))


@pytest.mark.parametrize("buckets", [1, 2, 3, 4])
@pytest.mark.parametrize("algorithm", TILES)
def test_any_number_of_buckets_is_exact(algorithm: str, buckets: int) -> None:
    conv = SHAPES["grouped"]
    x, weight = pruned(conv)
    packed = pack_ell(pack_csr(weight), buckets)
    assert len(packed.data) == buckets
    assert_close(compile_and_run(packed, conv, algorithm, x), reference.conv2d(x, weight, conv))


@pytest.mark.parametrize("zeros", [0.0, 1.0])
def test_a_filter_of_zeros_and_one_without_any(zeros: float) -> None:
    conv = SHAPES["odd channels"]
    x, weight = operands(conv)
    weight *= 1 - zeros
    actual = compile_and_run(pack_ell(pack_csr(weight), 3), conv, "direct", x)
    assert_close(actual, reference.conv2d(x, weight, conv))


@settings(max_examples=20)
@given(data=st.data())
def test_all_rows_of_any_filter_are_read(data: st.DataObject) -> None:
    """Offsets lie within what an algorithm packs, also for the last output."""
    conv = SHAPES[data.draw(st.sampled_from(sorted(SHAPES)))]
    algorithm = data.draw(st.sampled_from(sorted(TILES)))
    tile = TILES[algorithm] or RunTile(conv.OH, conv.OW, 1)
    _, weight = pruned(conv, data.draw(st.sampled_from([0.0, 0.5, 0.9])))
    planes = runs.source(conv, tile, algorithm).planes
    packed = pack_ell(pack_csr(weight), data.draw(st.integers(1, 4)))
    offsets = ell.arrays(packed, conv, algorithm, TILES[algorithm])[1 : 2 * len(packed.data) : 2]
    last = (tile.height - 1) * planes.pitch + tile.width - 1
    assert all(each.min() >= 0 for each in offsets)
    assert max(each.max() for each in offsets) + last < conv.CI * planes.size


@pytest.mark.parametrize(
    ("algorithm", "packs"), [("direct", "pad"), ("gemm", "pack"), ("spatial_pack", "pack")]
)
def test_blocks_have_roles(algorithm: str, packs: str) -> None:
    conv = SHAPES["plain"]
    packed = pack_ell(pack_csr(pruned(conv)[1]), 3)
    function = ell.conv2d(packed, conv, algorithm, TILES[algorithm])
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    found = [str(sch.get(block).annotations["role"]) for block in blocks]
    assert found == [packs, "sparse", "sparse", "sparse", "unpack"]


def example() -> Ell:
    """Two buckets: rows 0 and 2 with an entry each, and row 1 with three."""
    matrix = np.zeros((3, 4), "float32")
    matrix[0, 1] = 1
    matrix[1, :3] = 2
    matrix[2, 3] = 3
    return pack_ell(pack_csr(matrix.reshape(3, 1, 2, 2)), 2)


def put(array: np.ndarray, value: float) -> np.ndarray:
    copy = array.copy()
    copy[0, 0] = value
    return copy


MALFORMED: dict[str, tuple[Callable[[Ell], Ell], str]] = {
    "no columns": (lambda e: replace(e, columns=()), "data of 2 buckets and columns of 0"),
    "a bucket too few": (lambda e: replace(e, data=e.data[:1], columns=e.columns[:1]), "have 2 rows, not 3"),
    "wide data": (lambda e: replace(e, data=(e.data[0].astype("float64"), e.data[1])), "is not float32"),
    "wide columns": (lambda e: replace(e, columns=(e.columns[0].astype("int64"), e.columns[1])), "not int32"),
    "one axis": (
        lambda e: replace(e, data=(e.data[0][0], e.data[1])),
        "of bucket 0 is not float32 of two axes",
    ),
    "other shapes": (lambda e: replace(e, columns=e.columns[::-1]), r"is \(2, 1\) and columns \(1, 3\)"),
    "an empty bucket": (
        lambda e: replace(e, data=(e.data[0][:0], e.data[1]), columns=(e.columns[0][:0], e.columns[1])),
        "bucket 0 is empty",
    ),
    "a column too large": (
        lambda e: replace(e, columns=(put(e.columns[0], 4), e.columns[1])),
        r"range\(0, 4\)",
    ),
    "a negative one": (lambda e: replace(e, columns=(put(e.columns[0], -1), e.columns[1])), r"range\(0, 4\)"),
    "a column twice": (lambda e: replace(e, columns=(e.columns[0], put(e.columns[1], 1))), "a column twice"),
    "NaN": (lambda e: replace(e, data=(put(e.data[0], np.nan), e.data[1])), "NaN or infinity"),
    "a channel twice": (lambda e: replace(e, channels=e.channels * 0), "channels is no order of 3"),
    "wide channels": (lambda e: replace(e, channels=e.channels.astype("int64")), "channels is not int32"),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_what_is_malformed_is_refused(how: str) -> None:
    change, words = MALFORMED[how]
    conv = Conv2d(1, 1, 4, 4, 3, 2, 2)
    check_ell(example(), 3, 4)
    bad = change(example())
    for use in (
        lambda: check_ell(bad, 3, 4),
        lambda: unpack_ell(bad, (3, 1, 2, 2)),
        lambda: ell.arrays(bad, conv, "direct"),
        lambda: ell.conv2d(bad, conv, "direct"),
    ):
        with pytest.raises(ModelError, match=words):
            use()


def test_a_malformed_csr_is_not_packed() -> None:
    csr = pack_csr(np.ones((2, 3, 1, 1), "float32"))
    with pytest.raises(ModelError, match="out of range"):
        pack_ell(replace(csr, indices=csr.indices - 1), 1)
    with pytest.raises(ModelError, match="0 entries, not 2"):
        pack_ell(replace(csr, indptr=csr.indptr[:0]), 1)


def test_no_bucket_and_tiles_where_there_are_none_are_refused() -> None:
    csr = pack_csr(np.ones((3, 1, 2, 2), "float32"))
    with pytest.raises(ValueError, match="0 buckets"):
        pack_ell(csr, 0)
    packed, conv = pack_ell(csr, 1), Conv2d(1, 1, 4, 4, 3, 2, 2)
    with pytest.raises(ValueError, match="spatial_pack is computed in tiles"):
        ell.conv2d(packed, conv, "spatial_pack")
    with pytest.raises(ValueError, match="direct is not computed in tiles"):
        ell.arrays(packed, conv, "direct", RunTile(2, 2, 1))
