"""CSR: what is packed comes back, and what is malformed is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlas.algorithms.csr import check_csr, pack_csr, unpack_csr
from dlas.errors import ModelError
from dlas.values import Csr

ROWS, COLUMNS = 3, 8


@given(
    arrays.arrays(
        "float32",
        arrays.array_shapes(min_dims=4, max_dims=4, max_side=4),
        elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]),
    )
)
def test_what_is_packed_comes_back(weight: np.ndarray) -> None:
    csr = pack_csr(weight)
    check_csr(csr, len(weight), weight[0].size)
    assert len(csr.data) == np.count_nonzero(weight)
    np.testing.assert_array_equal(unpack_csr(csr, weight.shape), weight)


def example() -> Csr:
    """Three rows: two nonzeros, none, three."""
    matrix = np.zeros((ROWS, COLUMNS), "float32")
    matrix[0, [1, 4]] = 1, 2
    matrix[2, [0, 3, 7]] = 3, 4, 5
    return pack_csr(matrix.reshape(ROWS, 2, 2, 2))


def test_rows_columns_and_types() -> None:
    csr = example()
    assert csr.indptr.tolist() == [0, 2, 2, 5]
    assert csr.indices.tolist() == [1, 4, 0, 3, 7]
    assert csr.data.tolist() == [1, 2, 3, 4, 5]
    assert (csr.data.dtype, csr.indices.dtype, csr.indptr.dtype) == ("float32", "int32", "int32")


def test_a_filter_without_a_weight_left_has_no_entries() -> None:
    csr = pack_csr(np.zeros((4, 2, 3, 3), "float32"))
    check_csr(csr, 4, 18)
    assert (len(csr.data), csr.indptr.tolist()) == (0, [0] * 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused(value: float) -> None:
    weight = np.ones((2, 1, 1, 1), "float32")
    weight[1] = value
    with pytest.raises(ModelError, match="NaN or infinity"):
        pack_csr(weight)


def changed(array: np.ndarray, place: int, value: float) -> np.ndarray:
    copy = array.copy()
    copy[place] = value
    return copy


MALFORMED: dict[str, tuple[Callable[[Csr], Csr], str]] = {
    "descending": (lambda csr: replace(csr, indptr=changed(csr.indptr, 1, 3)), "indptr descends"),
    "starts late": (lambda csr: replace(csr, indptr=changed(csr.indptr, 0, 1)), "does not start at 0"),
    "ends early": (lambda csr: replace(csr, indptr=changed(csr.indptr, 3, 4)), "ends at 4, not at 5"),
    "too few rows": (lambda csr: replace(csr, indptr=csr.indptr[1:]), "3 entries, not 4"),
    "no rows": (lambda csr: replace(csr, indptr=csr.indptr[:0]), "0 entries, not 4"),
    "index too large": (lambda csr: replace(csr, indices=changed(csr.indices, 4, 8)), r"range\(0, 8\)"),
    "negative index": (lambda csr: replace(csr, indices=changed(csr.indices, 0, -1)), r"range\(0, 8\)"),
    "an index twice": (lambda csr: replace(csr, indices=changed(csr.indices, 1, 1)), "do not ascend"),
    "fewer data": (lambda csr: replace(csr, data=csr.data[:-1]), "data has 4 entries and indices 5"),
    "NaN": (lambda csr: replace(csr, data=changed(csr.data, 2, np.nan)), "NaN or infinity"),
    "wide data": (lambda csr: replace(csr, data=csr.data.astype("float64")), "data is not float32"),
    "wide indices": (lambda csr: replace(csr, indices=csr.indices.astype("int64")), "indices is not int32"),
    "two axes": (lambda csr: replace(csr, indptr=csr.indptr[None]), "indptr is not int32 of one axis"),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_what_is_malformed_is_refused(how: str) -> None:
    change, words = MALFORMED[how]
    check_csr(example(), ROWS, COLUMNS)
    with pytest.raises(ModelError, match=words):
        check_csr(change(example()), ROWS, COLUMNS)


def test_the_last_row_may_be_empty() -> None:
    weight = np.ones((2, 1, 1, 2), "float32")
    weight[1] = 0
    check_csr(pack_csr(weight), 2, 2)
