"""A network as ONNX, for the peers that read it; in a process of its own, because it needs torch.

`python -m dlas.bench.export NETWORK OUT.onnx`, NETWORK being its ModelSpec, Weights and Compression as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from dlas.values import Compression, ModelSpec, Weights


def format_network(spec: ModelSpec, weights: Weights, compression: Compression) -> str:
    """The network as JSON; `parse_network` reads it.

    >>> spec = ModelSpec("small", "package.module:function", (1, 3, 8, 8), (("width", 4),))
    >>> weights = Weights("given", Path("small.pt"), "e3b0")
    >>> compression = Compression("channel", 0.4, shrunk=True)
    >>> parse_network(format_network(spec, weights, compression)) == (spec, weights, compression)
    True
    """
    return json.dumps([dataclasses.asdict(each) for each in (spec, weights, compression)], default=str)


def parse_network(text: str) -> tuple[ModelSpec, Weights, Compression]:
    spec, weights, compression = json.loads(text)
    spec["input_shape"] = tuple(spec["input_shape"])
    spec["arguments"] = tuple((key, value) for key, value in spec["arguments"])
    weights["path"] = weights["path"] and Path(weights["path"])
    return ModelSpec(**spec), Weights(**weights), Compression(**compression)


def export(spec: ModelSpec, weights: Weights, compression: Compression, path: Path) -> None:
    """Write the network with its weights as one ONNX file. Raises ModelError or StorageError."""
    from dlas.compression.compressed import load
    from dlas.compression.export import export_onnx

    model = load(spec, weights, compression)
    export_onnx(model.module, model.input, path)


if __name__ == "__main__":
    export(*parse_network(sys.argv[1]), Path(sys.argv[2]))
