"""A network as ONNX, for the peers that read it; in a process of its own, because it needs torch.

`python -m dlas.bench.export SPEC OUT.onnx`, SPEC being the ModelSpec as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from dlas.values import ModelSpec

OPSET = 20


def format_spec(spec: ModelSpec) -> str:
    """The spec as JSON; `parse_spec` reads it.

    >>> spec = ModelSpec("small", "package.module:function", (1, 3, 8, 8), (("width", 4),))
    >>> parse_spec(format_spec(spec)) == spec
    True
    """
    return json.dumps(dataclasses.asdict(spec))


def parse_spec(text: str) -> ModelSpec:
    fields = json.loads(text)
    arguments = tuple((key, value) for key, value in fields["arguments"])
    return ModelSpec(fields["name"], fields["factory"], tuple(fields["input_shape"]), arguments)


def export(spec: ModelSpec, path: str) -> None:
    """Write the network with its weights as one ONNX file. Raises ModelError, or what torch raises."""
    import torch

    from dlas.models.loading import load

    model = load(spec)
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
    export(parse_spec(sys.argv[1]), sys.argv[2])
