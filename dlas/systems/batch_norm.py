"""Batch norm at inference is a scale and a shift by channel: fold it into the convolution before it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

# their weights are (CO, CI/groups, ...)
CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")


@relax.transform.function_pass(opt_level=0, name="FoldBatchNorm")
class FoldBatchNorm:
    """Rewrite each batch norm whose parameters are constant: it is gone from the function afterwards.

    With s = gamma / sqrt(variance + epsilon) it computes s * x + (beta - s * mean) (Ioffe & Szegedy 2015,
    algorithm 2). After a convolution that nothing else uses, the weights are multiplied by s and the rest
    becomes the bias; anywhere else it becomes one multiplication and one addition.
    """

    def transform_function(
        self, function: relax.Function, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> relax.Function:
        folded: relax.Function = _Folder(module, function).visit_expr(function)
        return folded


@mutator
class _Folder(PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: tvm.IRModule, function: relax.Function) -> None:
        super().__init__(module)
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.values = {binding.var: binding.value for binding in bindings}
        self.uses = Counter(var for value in self.values.values() for var in relax.analysis.free_vars(value))
        self.uses.update(relax.analysis.free_vars(function.body.body))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if not _is_call(call, "relax.nn.batch_norm") or not all(map(_is_constant, call.args[1:])):
            return super().visit_call_(call)
        scale, shift = _scale_and_shift(call)
        data = call.args[0]
        conv, bias = self._convolution(data)
        if conv is None:
            axes = (1, -1, *[1] * (data.ty.ndim - 2))
            factor, term = _constant(scale.reshape(axes)), _constant(shift.reshape(axes))
            scaled = self.builder_.emit(relax.op.multiply(self.visit_expr(data), factor))
            result = self.builder_.emit(relax.op.add(scaled, term))
        else:
            result = self._folded(conv, bias, scale, shift)
        return relax.Tuple([result, call.args[3], call.args[4]])

    def _convolution(self, data: relax.Expr) -> tuple[relax.Call | None, np.ndarray]:
        """The convolution with constant weights that only this use of `data` needs, and its bias."""
        value = self._if_used_once(data)
        bias = np.zeros(1)
        if _is_call(value, "relax.add") and _is_bias(value.args[1], value):
            bias = _numpy(value.args[1]).reshape(-1)
            value = self._if_used_once(value.args[0])
        is_convolution = _is_call(value, *CONVOLUTIONS) and _is_constant(value.args[1])
        return (value if is_convolution else None), bias

    def _if_used_once(self, expr: relax.Expr) -> Any:
        return self.values.get(expr) if isinstance(expr, relax.Var) and self.uses[expr] == 1 else None

    def _folded(self, conv: relax.Call, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> relax.Var:
        weight = _numpy(conv.args[1])
        axes = (-1, *[1] * (weight.ndim - 1))
        scaled = relax.Call(
            conv.op, [self.visit_expr(conv.args[0]), _constant(weight * scale.reshape(axes))], conv.attrs
        )
        rest = (bias * scale + shift).reshape(1, -1, *[1] * (weight.ndim - 2))
        return self.builder_.emit(relax.op.add(self.builder_.emit(scaled), _constant(rest)))


def _scale_and_shift(call: relax.Call) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (_numpy(arg) for arg in call.args[1:5])
    scale = gamma / np.sqrt(variance + call.attrs.epsilon)
    return scale, beta - mean * scale


def _is_call(expr: Any, *names: str) -> bool:
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name in names


def _is_constant(expr: relax.Expr) -> bool:
    return isinstance(expr, GenericConst)


def _is_bias(expr: relax.Expr, sum_: relax.Call) -> bool:
    """Whether expr is a constant with one value per channel of the sum."""
    shape = [int(size) for size in expr.ty.shape] if _is_constant(expr) else []
    return shape == [1, int(sum_.ty.shape[1]), *[1] * (len(shape) - 2)] and len(shape) == sum_.ty.ndim


def _numpy(expr: GenericConst) -> np.ndarray:
    values: np.ndarray = expr.value.numpy().astype(np.float64)
    return values


def _constant(values: np.ndarray) -> GenericConst:
    return relax.const(values.astype(np.float32))
