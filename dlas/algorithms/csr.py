"""Compressed sparse rows: a pruned filter without its zeros."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlas.errors import ModelError
from dlas.values import Csr


def pack_csr(weight: np.ndarray) -> Csr:
    """Compress a pruned filter into CSR, one row per output channel.

    weight: float32 (CO, CI/groups, KH, KW). Returns data (nnz,), indices (nnz,) int32 into CI/groups*KH*KW,
    and indptr (CO + 1,) int32. Raises ModelError for a weight that is not a number.

    >>> pack_csr(np.array([[[[0, 2]]], [[[3, 0]]]], "float32")).indices
    array([1, 0], dtype=int32)
    """
    matrix = weight.reshape(len(weight), -1)
    if not np.isfinite(matrix).all():
        raise ModelError("a filter has NaN or infinity", "correct the weights")
    rows, columns = np.nonzero(matrix)
    indptr = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return Csr(matrix[rows, columns].astype("float32"), columns.astype("int32"), indptr.astype("int32"))


def unpack_csr(csr: Csr, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The filter, float32 of this shape, that a CSR was packed from. Raises as `check_csr`."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    check_csr(csr, rows, columns)
    matrix = np.zeros((rows, columns), "float32")
    matrix[np.repeat(np.arange(rows), np.diff(csr.indptr)), csr.indices] = csr.data
    return matrix.reshape(shape)


def check_csr(csr: Csr, rows: int, columns: int) -> None:
    """Raises ModelError unless a CSR is one of a matrix of this size: a kernel reads wherever it points."""
    for problem, is_so in _problems(csr, rows, columns):
        if is_so:
            raise ModelError(f"malformed CSR: {problem}", "pack it again with pack_csr")


def _problems(csr: Csr, rows: int, columns: int) -> Iterator[tuple[str, bool]]:
    """Each thing that can be wrong, and whether it is; a later one may only be asked if no earlier one is."""
    data, indices, indptr = csr.data, csr.indices, csr.indptr
    types = (("data", data, "float32"), ("indices", indices, "int32"), ("indptr", indptr, "int32"))
    for name, array, dtype in types:
        yield f"{name} is not {dtype} of one axis", array.dtype != dtype or array.ndim != 1
    yield f"indptr has {len(indptr)} entries, not {rows + 1}", len(indptr) != rows + 1
    yield f"data has {len(data)} entries and indices {len(indices)}", len(data) != len(indices)
    yield "indptr does not start at 0", indptr[0] != 0
    yield "indptr descends", bool((np.diff(indptr) < 0).any())
    yield f"indptr ends at {indptr[-1]}, not at {len(data)}", indptr[-1] != len(data)
    yield f"an index is out of range(0, {columns})", bool(((indices < 0) | (indices >= columns)).any())
    starts = np.zeros(len(indices) + 1, bool)
    starts[indptr] = True
    ascends = (np.diff(indices) > 0) | starts[1:-1]
    yield "the indices of a row do not ascend", not ascends.all()
    yield "data has NaN or infinity", not np.isfinite(data).all()
