"""TorchVision beside a CPU build of PyTorch: models and transforms work, once two operators have a name."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

# The wheel's compiled extension is built for CUDA's PyTorch. Where it does not load, importing torchvision
# fails on these two, which only its detection models would call.
OPERATORS = ("nms", "qnms")


@cache
def name_operators() -> torch.library.Library | None:
    """Make `import torchvision` work, where it is installed. Returns what must stay alive for that."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for extension in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
        except OSError:  # the libraries of CUDA's PyTorch are not there
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
