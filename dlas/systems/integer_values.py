"""What becomes of the tensors of a quantized network while it is rewritten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax


@dataclass(frozen=True)
class Bounds:
    """What a value is kept between, as it is after a ReLU."""

    low: float = -np.inf
    high: float = np.inf

    def within(self, low: float, high: float) -> Bounds:
        """These, and then those: what lies outside of the later ones ends at their edge."""
        return Bounds(min(max(self.low, low), high), max(min(self.high, high), low))


FREE = Bounds()


@dataclass(frozen=True)
class Plain:
    """A tensor as it was imported: NCHW where it has four axes."""

    expr: relax.Expr

    @property
    def shape(self) -> list[int]:
        return _shape(self.expr)


@dataclass(frozen=True)
class Moved:
    """A float32 tensor, NHWC where it has four axes."""

    expr: relax.Expr

    @property
    def shape(self) -> list[int]:
        return _shape(self.expr)


@dataclass(frozen=True)
class Quantized:
    """Integers q that mean scale * (q - zero_point); NHWC where they have four axes.

    origin: the function that they are of other integers, where they are one.
    """

    expr: relax.Expr
    scale: float
    zero_point: int
    origin: Table | None = None

    @property
    def shape(self) -> list[int]:
        return _shape(self.expr)


@dataclass(frozen=True)
class Table:
    """A function of the 256 integers that each element of `source` may be.

    meanings: float32 (256,), from the least integer of the type up.
    """

    source: Quantized
    meanings: np.ndarray

    @property
    def shape(self) -> list[int]:
        return self.source.shape


@dataclass(frozen=True)
class Sums:
    """What a convolution (N, H, W, CO) or linear layer (N, CO) summed: int32, meaning scale * (expr + bias).

    scale: float64 (CO,), bias: int64 (CO,). What it means is kept within bounds.
    """

    expr: relax.Expr
    scale: np.ndarray
    bias: np.ndarray
    bounds: Bounds = FREE

    @property
    def shape(self) -> list[int]:
        return _shape(self.expr)


@dataclass(frozen=True)
class Total:
    """The sum of quantized tensors of one shape, within bounds."""

    terms: tuple[Quantized, ...]
    bounds: Bounds = FREE

    @property
    def shape(self) -> list[int]:
        return self.terms[0].shape


@dataclass(frozen=True)
class Constant:
    """What is known now, and how it was imported.

    integers and scale: of int8 weights of zero point 0; scale runs over one axis.
    """

    values: np.ndarray
    integers: np.ndarray | None = None
    scale: np.ndarray | None = None
    imported: relax.Expr | None = None

    @property
    def shape(self) -> list[int]:
        return list(self.values.shape)


Computed = Moved | Quantized | Table | Sums | Total  # what is not as it was imported
Value = Plain | Constant | Computed


def _shape(expr: relax.Expr) -> list[int]:
    return [int(size) for size in expr.ty.shape]
