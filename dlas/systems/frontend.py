"""From a PyTorch module to Relax: exported, batch norm folded, constants computed."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tvm
from torch import nn
from tvm import relax
from tvm.relax.dpl import is_op, rewrite_call, wildcard
from tvm.relax.frontend.torch import from_exported_program

from dlas.errors import ModelError
from dlas.systems.batch_norm import FoldBatchNorm
from dlas.systems.constants import FoldConstants
from dlas.systems.torch_convolution import WidenConv1d, import_convolution


@dataclass(frozen=True)
class Imported:
    """A network to build, as often as wanted: building leaves it as it is.

    mod is as from `to_relax` or `quantized.import_quantized`, x the float32 input that it was made with.
    """

    mod: tvm.IRModule
    x: np.ndarray


def import_network(module: nn.Module, x: np.ndarray) -> Imported:
    """Import a network in eval mode with an input. Raises what `to_relax` raises."""
    return Imported(to_relax(module, x), x)


def to_relax(module: nn.Module, array: np.ndarray) -> tvm.IRModule:
    """The network as Relax: `main`, from one tensor of array's shape to one tensor, its weights inside.

    No batch norm is left. Convolutions over one and two dimensions are
    `relax.nn.conv2d` in NCHW and OIHW, their bias an addition of (1, CO, 1, 1) after it; those over three
    dimensions and transposed ones keep operators of their own. Raises ModelError when the network cannot
    be exported, or uses what Relax does not have.
    """
    with _quiet():
        imported = _import(_export(module, array))
    passes = [
        EvaluateRanges(),
        FoldConstants(),  # computed weights and biases
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
        FoldBatchNorm(),
        WidenConv1d(),
        relax.transform.DecomposeOpsForInference(),
        FoldConstants(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    ]
    lowered: tvm.IRModule = tvm.transform.Sequential(passes)(imported)
    _check_shapes(lowered["main"], type(module).__name__)
    return lowered


def _export(module: nn.Module, array: np.ndarray) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(module, (torch.from_numpy(array.copy()),))
    except Exception as error:
        raise ModelError(
            f"torch.export cannot export {type(module).__name__}: {_reason(error)}",
            "write forward without control flow or shapes that depend on the data",
        ) from error


def _import(program: torch.export.ExportedProgram) -> tvm.IRModule:
    try:
        return from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=True,
            custom_convert_map={"convolution.default": import_convolution},
        )
    except Exception as error:
        missing = re.search(r"Unsupported function types \[(.*)\]", str(error))
        lack = f"has no operator for {missing[1]}" if missing else f"cannot import it: {_reason(error)}"
        raise ModelError(f"TVM {lack}", "write the network with other operators") from error


@relax.transform.function_pass(opt_level=0, name="EvaluateRanges")
class EvaluateRanges:
    """Compute each `arange` of numbers, which FoldConstant leaves: reflecting padding indexes with them."""

    def transform_function(
        self, function: relax.Function, module: tvm.IRModule, context: tvm.transform.PassContext
    ) -> relax.Function:
        def evaluate(call: relax.Call, _: dict[Any, relax.Expr]) -> relax.Expr:
            if not all(isinstance(bound, tvm.tirx.IntImm | tvm.tirx.FloatImm) for bound in call.args):
                return call
            dtype = str(call.attrs.dtype)
            return relax.const(np.arange(*(bound.value for bound in call.args), dtype=dtype), dtype)

        bounds = (wildcard(), wildcard(), wildcard())
        return rewrite_call(is_op("relax.arange")(*bounds), evaluate, function)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from printing graphs, logs and warnings beside the errors that it raises."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _check_shapes(main: relax.Function, network: str) -> None:
    """Raise ModelError unless `main` returns one tensor and each shape in it is known."""
    if not isinstance(main.ret_ty, relax.TensorType):
        raise ModelError(f"{network} does not return one tensor", "return one tensor from forward")
    for block in main.body.blocks:
        for binding in block.bindings:
            if not _is_static(binding.var.ty):
                raise ModelError(
                    f"{network} has a shape that depends on the data: {binding.var.ty}",
                    "write forward so that every size is known",
                )


def _is_static(kind: tvm.ir.Type) -> bool:
    if isinstance(kind, relax.TupleType):
        return all(map(_is_static, kind.fields))
    if not isinstance(kind, relax.TensorType):
        return True
    return kind.shape is not None and all(isinstance(size, tvm.tirx.IntImm) for size in kind.shape)
