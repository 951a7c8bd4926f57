"""What PyTorch's operators do to axis 1 of a tensor, and to a channel of zeros."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx

from dlas.compression.channel_labels import Booleans, Channels

# f(0) = 0, element by element; dropout is the identity in eval mode
_KEEPS_ZERO = {
    *("relu", "relu6", "silu", "gelu", "elu", "selu", "celu", "leaky_relu", "hardswish", "mish", "tanh"),
    *("abs", "neg", "sin", "sqrt", "square", "erf", "dropout", "feature_dropout", "alpha_dropout"),
    *("clone", "contiguous", "alias", "detach", "to"),
}
_LOSES_ZERO = {"sigmoid", "hardsigmoid", "softplus", "log_sigmoid", "exp", "cos"}
_RANGES = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}
# of (N, C, H, W), channel by channel; a maximum's padding never wins
_SPATIAL = {
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
}
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
# whether a channel is zero after the operator, where both, or one, of the tensors have it zero
PAIRWISE: Mapping[str, Callable[[Booleans, Booleans], Booleans]] = {
    "add": np.logical_and,
    "sub": np.logical_and,
    "rsub": np.logical_and,
    "maximum": np.logical_and,
    "minimum": np.logical_and,
    "mul": np.logical_or,
    "div": np.logical_and,
}
CHECKS = {"_assert_tensor_metadata"}  # these read a tensor's type, and return nothing


def base_name(node: fx.Node) -> str:
    """The operator's name without overload and without the underscore of in-place ones: relu."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.rpartition("::")[2].rstrip("_") if schema and node.op == "call_function" else node.op


def is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes its result into its input."""
    return str(node.target._schema.name).endswith("_")  # type: ignore[union-attr]


def arguments(node: fx.Node) -> dict[str, Any]:
    """The operator's arguments by name, those left out with their defaults; `self` is `self_`."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or node.op != "call_function":
        return {}
    found: dict[str, Any] = {
        each.name: each.default_value for each in schema.arguments if each.has_default_value()
    }
    found |= dict(zip((each.name for each in schema.arguments), node.args, strict=False)) | node.kwargs
    if "self" in found:
        found["self_"] = found.pop("self")
    return found


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of the one tensor that a node returns; empty for numbers and for anything else."""
    tensor = value.meta.get("val") if isinstance(value, fx.Node) else None
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else ()


def channel_count(node: fx.Node) -> int:
    """The size of axis 1; -1 without one."""
    shape = shape_of(node)
    return shape[1] if len(shape) > 1 else -1


def spares_channels(tensor: fx.Node, other: Any) -> bool:
    """Whether `other`, a number or tensor, is broadcast along axis 1 of `tensor`, whose size then is free."""
    missing = len(shape_of(tensor)) - len(shape_of(other))
    return missing > 1 or (missing >= 0 and shape_of(other)[1 - missing] == 1)


def keeps_zero(name: str, other: Any) -> bool:
    """Whether zero is what a pairwise operator makes of zero and `other`."""
    is_number = isinstance(other, int | float)
    if name in ("add", "sub", "rsub"):
        return is_number and other == 0
    if name == "div":
        return is_number and other != 0
    return name == "mul" and not (is_number and not math.isfinite(other))


def kept(
    node: fx.Node, name: str, given: Mapping[str, Any], channels: Mapping[fx.Node, Channels]
) -> Channels | None:
    """The channels of what an operator on one tensor returns; None where it is unknown or mixes them."""
    if len(node.all_input_nodes) != 1:
        return None
    source = node.all_input_nodes[0]
    entering = channels.get(source)
    axes = len(shape_of(source))
    if entering is None:
        return None
    if name in ("flatten", "view", "reshape") and _flattens(source, name, given):
        return entering.repeated(math.prod(shape_of(source)[2:]))
    keeps = (
        name in _KEEPS_ZERO
        or (name in _SPATIAL and axes == 4)
        or (name in _REDUCTIONS and _is_spatial(given.get("dim"), axes))
        or (name == "squeeze" and _is_spatial(given.get("dim"), axes))
        or (name == "unsqueeze" and _is_spatial(given["dim"], axes + 1))
        or (name == "pad" and len(given["pad"]) <= 2 * (axes - 2))
    )
    if keeps:
        return entering if name != "pad" or _pads_zeros(given) else entering.marked(is_zero=False)
    if name in _LOSES_ZERO:
        return entering.marked(is_zero=False)
    if name in _RANGES:
        low, high = (given.get(bound) for bound in _RANGES[name])
        has_zero = (low is None or low <= 0) and (high is None or high >= 0)
        return entering if has_zero else entering.marked(is_zero=False)
    return None


def _flattens(source: fx.Node, name: str, given: Mapping[str, Any]) -> bool:
    """Whether (N, C, ...) becomes (N, whatever is left): a size that is written down cannot shrink."""
    shape = shape_of(source)
    if name == "flatten":
        return bool(given["start_dim"] % len(shape) == 1 and given["end_dim"] % len(shape) == len(shape) - 1)
    size = given["size"] if name == "view" else given["shape"]
    return list(size) == [shape[0], -1]


def _is_spatial(dim: Any, axes: int) -> bool:
    """Whether axes are given, and neither N nor C is one of them."""
    dims = [dim] if isinstance(dim, int) else dim
    return bool(dims) and all(each % axes > 1 for each in dims)


def _pads_zeros(given: Mapping[str, Any]) -> bool:
    """Whether padding adds zeros, or copies of what is there."""
    return given["mode"] != "constant" or not given["value"]
