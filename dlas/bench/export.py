"""A network as ONNX, for the peers that read it; in a process of its own, because it needs torch.

`python -m dlas.bench.export NETWORK OUT.onnx`, NETWORK being its ModelSpec and Weights as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from dlas.values import ModelSpec, Weights

OPSET = 20


def format_network(spec: ModelSpec, weights: Weights) -> str:
    """The network as JSON; `parse_network` reads it.

    >>> spec = ModelSpec("small", "package.module:function", (1, 3, 8, 8), (("width", 4),))
    >>> weights = Weights("given", Path("small.pt"), "e3b0")
    >>> parse_network(format_network(spec, weights)) == (spec, weights)
    True
    """
    return json.dumps([dataclasses.asdict(spec), dataclasses.asdict(weights)], default=str)


def parse_network(text: str) -> tuple[ModelSpec, Weights]:
    spec, weights = json.loads(text)
    spec["input_shape"] = tuple(spec["input_shape"])
    spec["arguments"] = tuple((key, value) for key, value in spec["arguments"])
    weights["path"] = weights["path"] and Path(weights["path"])
    return ModelSpec(**spec), Weights(**weights)


def export(spec: ModelSpec, weights: Weights, path: str) -> None:
    """Write the network with its weights as one ONNX file. Raises ModelError, or what torch raises."""
    import torch

    from dlas.models.loading import load

    model = load(spec, weights)
    torch.onnx.export(
        model.module,
        (torch.from_numpy(model.input),),
        path,
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        verbose=False,
    )


if __name__ == "__main__":
    export(*parse_network(sys.argv[1]), sys.argv[2])
