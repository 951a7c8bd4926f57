"""Computing with integers what a quantized network writes as float32 between dequantize and quantize.

Tensors are in NHWC between its convolutions: the channels that a dot product reads lie together, and so do
those that a vector writes. What is not known here is computed in float32, as it was imported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from dlas.systems import integer_operators as operators
from dlas.systems.integer_rules import RULES
from dlas.systems.integer_values import Constant, Moved, Plain, Quantized, Sums, Table, Total, Value
from dlas.systems.schedules import dots
from dlas.values import Compiler

_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def describe(compiler: Compiler, has_integers: bool, has_dot_products: bool) -> str:
    """What a quantized network computes with on a CPU, in words."""
    if not has_integers:
        return "float32"
    instructions = f" ({dots.choose(compiler).instructions})" if has_dot_products else ""
    return f"8-bit integers{instructions}, float32 elsewhere"


def compute_with_integers(mod: tvm.IRModule, algorithm: str, compiler: Compiler) -> tvm.IRModule:
    """Rewrite a module that `quantized.import_quantized` made.

    A convolution or linear layer becomes one of integers where its input is quantized and its weights are
    constant, int8, of zero point 0 and above -128; any other stays float32.
    """
    # The importer writes some operators as functions of their own, which main calls.
    functions = tvm.IRModule(
        {variable: function for variable, function in mod.functions_items() if variable.name_hint != "main"}
    )
    return Rewriter(functions, algorithm, compiler).rewrite(mod["main"])


class Rewriter:
    """Goes through the bindings of a function in order, and keeps for each variable what became of it.

    What becomes of an operator's result is for `integer_rules` to say.
    """

    def __init__(self, functions: tvm.IRModule, algorithm: str, compiler: Compiler) -> None:
        self.algorithm, self.compiler, self.dot = algorithm, compiler, dots.choose(compiler)
        self.builder = relax.BlockBuilder(functions)
        self.values: dict[relax.Var, Any] = {}

    def rewrite(self, function: relax.Function) -> tvm.IRModule:
        inputs = [relax.Var(param.name, param.ty) for param in function.params]
        self.values = {old: Plain(new) for old, new in zip(function.params, inputs, strict=True)}
        with self.builder.function("main", inputs):
            with self.builder.dataflow():
                for block in function.body.blocks:
                    for binding in block.bindings:
                        self.values[binding.var] = self.value(binding.value)
                output = self.builder.emit_output(self.plain(self.value(function.body.body)))
            self.builder.emit_func_output(output)
        return self.builder.finalize()

    def value(self, expr: relax.Expr) -> Any:
        """What an expression became: a Value, a tuple of them, or itself where it is no tensor."""
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, GenericConst):
            return Constant(expr.value.numpy(), imported=expr)
        if isinstance(expr, relax.TupleGetItem):
            found = self.value(expr.tuple_value)
            if isinstance(found, tuple):
                return found[expr.index]
            return Plain(self.builder.emit(relax.TupleGetItem(found.expr, expr.index)))
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(field) for field in expr.fields)
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            return self.call(expr)
        return expr

    def call(self, call: relax.Call) -> Any:
        name = str(call.op.name).removeprefix("relax.")
        args = [self.value(arg) for arg in call.args]
        rule = RULES.get(name)
        done = rule(self, call, *args) if rule else None
        if done is not None:
            return done
        plain = [self.argument(arg) for arg in args]
        return Plain(self.builder.emit(relax.Call(call.op, plain, call.attrs, call.ty_args)))

    def argument(self, arg: Any) -> relax.Expr:
        """An argument as the operator was imported to take it."""
        if isinstance(arg, tuple):
            return relax.Tuple([self.argument(field) for field in arg])
        return self.plain(arg) if isinstance(arg, Value) else arg

    # The forms of a value

    def floats(self, value: Value) -> relax.Expr:
        """float32, NHWC where it has four axes."""
        builder = self.builder
        if isinstance(value, Moved):
            return value.expr
        if isinstance(value, Quantized):
            return operators.dequantize(builder, value)
        if isinstance(value, Sums):
            return operators.scale_sums(builder, value)
        if isinstance(value, Total):
            return operators.scale_total(builder, value)
        if isinstance(value, Table):
            return operators.read_table(builder, value, self.dot.activations)
        if isinstance(value, Constant):
            array = value.values.astype("float32")
            return relax.const(np.ascontiguousarray(array.transpose(_TO_NHWC)) if array.ndim == 4 else array)
        return self.permuted(value.expr, _TO_NHWC)

    def plain(self, value: Value) -> relax.Expr:
        """A tensor as it was imported."""
        if isinstance(value, Plain):
            return value.expr
        if isinstance(value, Constant):
            return relax.const(value.values.astype("float32")) if value.imported is None else value.imported
        if isinstance(value, Quantized):  # bytes are moved, a quarter of what float32 would be
            return self.floats(replace(value, expr=self.permuted(value.expr, _TO_NCHW)))
        return self.permuted(self.floats(value), _TO_NCHW)

    def permuted(self, expr: relax.Expr, axes: list[int]) -> relax.Expr:
        return self.builder.emit(relax.op.permute_dims(expr, axes)) if expr.ty.ndim == 4 else expr
