"""A network as ONNX: what ONNX Runtime quantizes, and what the peers of the benchmark read."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from dlas.cache import atomic_write
from dlas.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import nn

OPSET = 20


def export_onnx(module: nn.Module, x: np.ndarray, path: Path) -> None:
    """Write a network as one ONNX file, for inputs of x's shape (N, C, H, W). All of it is float32.

    Puts the network into eval mode. torch folds each batch norm that follows a convolution into it.
    Raises ModelError and StorageError.
    """
    import torch

    with quiet():
        try:
            program = torch.onnx.export(
                module.eval(), (torch.from_numpy(x),), dynamo=True, opset_version=OPSET, verbose=False
            )
            data = serialize(program.model_proto)  # type: ignore[union-attr]  # it is a program, without a file
        except Exception as error:  # the exporter runs the network's own code, which may raise anything
            cause = f"{type(module).__name__} cannot be exported to ONNX: {first_line(error)}"
            raise ModelError(cause, "write its forward with operators that torch.onnx exports") from error
    atomic_write(path, data)


def serialize(model: ModelProto) -> bytes:
    """The bytes of a model without what says where and how it was made. Changes the model."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries warn, log and print to stderr to themselves; their failures still come out.

    A handler that does nothing also keeps `logging` from giving the process one that prints.
    """
    root = logging.getLogger()
    handlers = root.handlers
    root.handlers = [logging.NullHandler()]
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers = handlers


def first_line(error: BaseException) -> str:
    """What kind of failure it is and the first line that it says: the last of a chain says most."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
