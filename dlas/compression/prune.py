"""Pruning a network once, by what is smallest in all its convolutions together, or in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import prune

from dlas.compression import channel
from dlas.compression.notation import check_level
from dlas.errors import ModelError
from dlas.values import ModelSpec


def prune_weights(module: nn.Module, level_fraction: float) -> None:
    """Make the smallest weights of all convolutions zero, in place, so that this share of them is.

    What is zero already is the smallest. Raises UsageError for a level that is no share, ModelError for a
    network without convolutions or with a weight that is no number.
    """
    check_level(level_fraction)
    chosen = targets(module)
    prune.global_unstructured(chosen, prune.L1Unstructured, amount=level_fraction)
    for conv, name in chosen:
        prune.remove(conv, name)  # type: ignore[no-untyped-call]


def prune_uniformly(module: nn.Module, x: Tensor, level_fraction: float) -> None:
    """Make the smallest weights of each convolution zero, in place, so that this share of each of them is.

    But for the first one that x, one input, reaches, and depthwise ones: they have few weights, and much to
    lose. Raises as `prune_weights`.
    """
    check_level(level_fraction)
    convolutions = [conv for conv, _ in targets(module)]
    order: list[nn.Module] = []

    def has_one_input(conv: nn.Module) -> bool:
        return isinstance(conv, _ConvNd) and conv.groups == conv.in_channels > 1

    handles = [conv.register_forward_pre_hook(lambda conv, _: order.append(conv)) for conv in convolutions]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    for conv in dict.fromkeys(order[1:]):
        if conv is not order[0] and not has_one_input(conv):
            prune.l1_unstructured(conv, "weight", amount=level_fraction)  # type: ignore[no-untyped-call]
            prune.remove(conv, "weight")  # type: ignore[no-untyped-call]


def prune_channels(module: nn.Module, x: Tensor, level_fraction: float) -> None:
    """Make the smallest channels zero, in place: see `channel.mask_channels`. x: one input. Raises as it."""
    check_level(level_fraction)
    targets(module)
    channel.mask_channels(module, x, level_fraction)
    channel.make_permanent(module)


def pruned_fraction(module: nn.Module) -> float:
    """The share of all convolutions' weights that is zero; 0 without convolutions."""
    weights = [conv.weight for conv in module.modules() if isinstance(conv, _ConvNd)]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, total)


@contextmanager
def named(spec: ModelSpec) -> Iterator[None]:
    """Whose network it is that cannot be pruned: a ModelError says so."""
    try:
        yield
    except ModelError as error:
        model = f"model {spec.name}: "
        raise ModelError(model + error.cause.removeprefix(model), error.next_step) from error


def targets(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The weights of all convolutions, as PyTorch's pruning takes them: contiguous. Raises ModelError."""
    named = [(name, conv) for name, conv in module.named_modules() if isinstance(conv, _ConvNd)]
    if not named:
        raise ModelError("the network has no convolution to prune", "leave it dense")
    for name, conv in named:
        if not torch.isfinite(conv.weight).all():
            raise ModelError(
                f"the weight of {name or 'the network'} has NaN or infinity", "correct the weights"
            )
        conv.weight.data = conv.weight.data.contiguous()
    return [(conv, "weight") for _, conv in named]
