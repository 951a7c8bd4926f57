"""Precision fp16: memory holds float16, arithmetic stays float32.

Neither an AVX-512 CPU nor a Cortex-A73 adds float16 numbers; both convert them, a vector at a time. So what a
kernel reads and writes is float16, and what it computes in between is float32: values are widened where they
are read, and rounded once, where the kernel writes its result. The network's input and output stay float32.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from dlas.errors import ModelError

ARITHMETIC = "float16 storage, float32 arithmetic"
LARGEST = float(np.finfo(np.float16).max)
_INFINITE = 65520.0  # from here on, float16's nearest is infinity


def store_half(mod: tvm.IRModule) -> tvm.IRModule:
    """Give each kernel of a fused module float16 weights, inputs and outputs.

    mod is as after FuseTIR: main calls kernels with `call_tir`. Each gets a block of role `widen` for every
    float32 argument and one of role `narrow` for every result, for its schedule to put where they belong.
    Raises ModelError for a weight that float16 cannot hold.
    """
    _check_weights(mod["main"])
    passes = [
        StoreHalf(),
        relax.transform.LegalizeOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    stored: tvm.IRModule = tvm.transform.Sequential(passes)(mod)
    return stored


@tvm.transform.module_pass(opt_level=0, name="StoreHalf")
class StoreHalf:
    """Put each kernel that main calls between conversions, in a function that FuseTIR makes one kernel again.

    Whatever else main calls keeps its float32 arguments.
    """

    def transform_module(self, module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        halver = _Halver(module)
        main = halver.visit_expr(module["main"])
        halver.builder_.update_func(module.get_global_var("main"), main)
        return halver.builder_.get()


@mutator
class _Halver(PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__(module)
        self.module = module
        self.output = module["main"].body.body
        self.is_output = False
        self.wrappers: dict[tuple[Any, ...], relax.GlobalVar] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.is_output = binding.var.same_as(self.output)
        super().visit_var_binding_(binding)

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        return self._widened(super().visit_var_(var), var)

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        return self._widened(super().visit_dataflow_var_(var), var)

    def visit_tuple_getitem_(self, item: relax.TupleGetItem) -> relax.Expr:
        return self._returned(relax.TupleGetItem(self._stored(item.tuple_value), item.index))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if not _is_kernel_call(call):
            return super().visit_call_(call)
        kernel, arguments = call.args[0], [self._stored(field) for field in call.args[1].fields]
        if len(arguments) == 1 and _only_reshapes(self.module[kernel], call.args[1].fields[0], call):
            return self._returned(relax.op.reshape(arguments[0], call.ty.shape))
        is_wide = self.is_output and isinstance(call.ty, relax.TensorType)
        key = (kernel, is_wide, *(_is_half(argument) for argument in arguments))
        if key not in self.wrappers:
            wrapper = self._wrap(call, arguments, is_wide)
            self.wrappers[key] = self.builder_.add_func(wrapper, f"{kernel.name_hint}_half")
        return self._returned(relax.Call(self.wrappers[key], arguments))

    def _stored(self, expr: relax.Expr) -> relax.Expr:
        """What lies in memory for expr."""
        if isinstance(expr, GenericConst):
            return _narrow_constant(expr)
        if isinstance(expr, relax.DataflowVar):
            return super().visit_dataflow_var_(expr)
        return super().visit_var_(expr) if isinstance(expr, relax.Var) else self.visit_expr(expr)

    def _widened(self, stored: relax.Expr, var: relax.Var) -> relax.Expr:
        """What a reader other than a kernel gets for var: the type that it expects."""
        if not isinstance(var.ty, relax.TensorType) or stored.ty.dtype == var.ty.dtype:
            return stored
        return self.builder_.emit(relax.op.astype(stored, var.ty.dtype))

    def _returned(self, value: relax.Expr) -> relax.Expr:
        """Value, widened if it is the network's output."""
        value = self.builder_.normalize(value)
        if not self.is_output or not _is_half(value):
            return value
        return relax.op.astype(self.builder_.emit(value), "float32")

    def _wrap(self, call: relax.Call, arguments: list[relax.Expr], is_wide: bool) -> relax.Function:
        """A function that makes the call with its arguments as they are stored.

        is_wide: its one result stays as it is.
        """
        bindings: list[relax.VarBinding] = []

        def bind(value: relax.Expr) -> relax.Var:
            value = self.builder_.normalize(value)
            bindings.append(relax.VarBinding(relax.DataflowVar(f"v{len(bindings)}", value.ty), value))
            return bindings[-1].var

        def narrow(value: relax.Var) -> relax.Var:
            is_float = str(value.ty.dtype) == "float32"
            return bind(self.builder_.call_te(_narrow, value)) if is_float else value

        params = [relax.Var(f"p{n}", argument.ty) for n, argument in enumerate(arguments)]
        wide = [bind(self.builder_.call_te(_widen, p)) if _is_half(p) else p for p in params]
        result = bind(relax.Call(call.op, [call.args[0], relax.Tuple(wide)], call.attrs, call.ty_args))
        if isinstance(call.ty, relax.TupleType):
            fields = [narrow(bind(relax.TupleGetItem(result, n))) for n in range(len(call.ty.fields))]
            result = bind(relax.Tuple(fields))
        elif not is_wide:
            result = narrow(result)
        output = relax.Var("output", result.ty)
        block = relax.DataflowBlock([*bindings, relax.VarBinding(output, result)])
        function = relax.Function(params, relax.SeqExpr([block], output), output.ty)
        return function.with_attr("Primitive", True)


def _only_reshapes(kernel: tirx.PrimFunc, x: relax.Expr, result: relax.Call) -> bool:
    """TVM's analysis also finds the pattern in a slice from the beginning."""
    if not all(isinstance(each.ty, relax.TensorType) for each in (x, result)):
        return False
    sizes = [prod(int(size) for size in each.ty.shape) for each in (x, result)]
    return sizes[0] == sizes[1] and bool(relax.analysis.has_reshape_pattern(kernel))


def _is_half(expr: relax.Expr) -> bool:
    return isinstance(expr.ty, relax.TensorType) and str(expr.ty.dtype) == "float16"


def _check_weights(main: relax.Function) -> None:
    """Ahead of the pass, for what is raised in a pass comes out of it as TVM's error."""
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    calls = [binding.value for binding in bindings if _is_kernel_call(binding.value)]
    for constant in (field for call in calls for field in call.args[1].fields):
        if isinstance(constant, GenericConst):
            values = constant.value.numpy()
            largest = np.abs(values[np.isfinite(values)]).max(initial=0)
            if values.dtype == np.float32 and largest >= _INFINITE:
                raise ModelError(
                    f"a weight is as large as {largest:g}, and float16 ends at {LARGEST:g}",
                    "use precision fp32 for this network",
                )


def _is_kernel_call(expr: Any) -> bool:
    is_operator = isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op)
    return is_operator and expr.op.name == "relax.call_tir"


def _narrow_constant(constant: GenericConst) -> relax.Expr:
    values = constant.value.numpy()
    if values.dtype != np.float32:
        return constant
    return relax.const(values.astype(np.float16))


def _widen(x: te.Tensor) -> te.Tensor:
    def element(*index: Any) -> Any:
        return x[index].astype("float32")

    return te.compute(x.shape, element, name="widen", attrs={"role": "widen"})


def _narrow(x: te.Tensor) -> te.Tensor:
    def element(*index: Any) -> Any:
        return x[index].astype("float16")

    return te.compute(x.shape, element, name="narrow", attrs={"role": "narrow"})
