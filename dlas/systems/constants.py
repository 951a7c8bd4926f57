"""Computing at import what a network computes from its weights alone."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator


@relax.transform.function_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """Replace the operators that depend on constants alone by what they compute.

    TVM's own pass computes them. It would also lower every other operator to find out that it cannot be
    computed, for seconds in a deep network, so it gets a function of these operators only.
    """

    def transform_function(
        self, function: relax.Function, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> relax.Function:
        found = _find(function)
        if not any(isinstance(binding.value, relax.Call) for binding in found):
            return function
        folded: relax.Function = _Substitution(module, _compute(found)).visit_expr(function)
        return folded


@mutator
class _Substitution(PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: tvm.IRModule, values: Mapping[relax.Var, relax.Expr]) -> None:
        super().__init__(module)
        self.values = values

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        value = self.values.get(var)
        return super().visit_dataflow_var_(var) if value is None else value


def _find(function: relax.Function) -> list[relax.VarBinding]:
    """The bindings of a function that depend on nothing but constants and each other, in order."""
    found: dict[relax.Var, relax.VarBinding] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            is_inner = isinstance(binding, relax.VarBinding) and isinstance(binding.var, relax.DataflowVar)
            if is_inner and all(var in found for var in relax.analysis.free_vars(binding.value)):
                found[binding.var] = binding
    return list(found.values())


def _compute(bindings: list[relax.VarBinding]) -> Mapping[relax.Var, relax.Expr]:
    """The values of bindings, without those that TVM cannot compute."""
    wanted = [binding.var for binding in bindings]
    values = relax.Tuple(wanted)
    output = relax.Var("values", relax.TupleType([var.ty for var in wanted]))
    block = relax.DataflowBlock([*bindings, relax.VarBinding(output, values)])
    function = relax.Function([], relax.SeqExpr([block], output), output.ty)
    computed = relax.transform.FoldConstant()(tvm.IRModule({"main": function}))["main"]
    results = computed.body.blocks[0].bindings[-1].value.fields
    return {var: value for var, value in zip(wanted, results, strict=True) if isinstance(value, GenericConst)}
