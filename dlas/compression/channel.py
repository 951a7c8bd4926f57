"""Channel pruning: whole filters, chosen by magnitude among all convolutions, set to zero or removed.

A prunable channel is a class of tied channels. A residual addition ties what it adds, channel by channel,
and so do a squeeze-and-excitation's scaling and a depthwise convolution: one cannot go without the others.
Such a class counts once, however many filters it has, for the level as for the order. Channels that must
live are in no class: the network's inputs and outputs, what enters an operator that is not known, and
what a parameter reads that is used twice.
"""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from dlas.compression.channel_graph import ChannelGraph, Role, Slice, attribute, evaluating, trace
from dlas.compression.channel_labels import PROTECTED, Booleans, Integers
from dlas.compression.notation import check_level
from dlas.errors import ModelError

_SAME_WITHIN = 1e-4  # of the output's scale: sums of fewer zeros are rounded in another order


class ChannelMask(prune.BasePruningMethod):
    """Zeros on axis 0 of a parameter. Global: chosen elsewhere, and said for the whole tensor."""

    PRUNING_TYPE = "global"

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of earlier levels (shape of t) without the positions that are not kept."""
        return default_mask * self.keep.to(default_mask).view(-1, *[1] * (t.ndim - 1))

    @classmethod
    def apply(cls, module: nn.Module, name: str, keep: Tensor) -> Self:  # type: ignore[override]
        """Reparametrise `name` of a module: keep is bool, one for each position of axis 0."""
        made: Self = super().apply(module, name, keep=keep)  # type: ignore[no-untyped-call]
        return made


def mask_channels(module: nn.Module, x: Tensor, level_fraction: float) -> None:
    """Choose the channels to prune and mask all that makes them, in place, so that training keeps the zeros.

    x: an input of the network, (N, C, H, W), on its device. The round(level_fraction * classes) classes of
    channels with the lowest score are pruned, after those that are zero already, which stay so. The score
    is the mean over the filters of a class of their L1 norm, each in relation to the mean of its
    convolution. A batch norm undoes what size the filters of a convolution have in common, so that says
    nothing; and it follows fan-in, so that by mean |w| whole layers go first: a MobileNetV1 on handwritten
    digits then fell from 98% to 20% of accuracy at the level 0.2, and keeps 98% so. Depthwise filters
    are masked with their class but have no part in its score: their nine large weights would hide that a
    class is otherwise useless, and leave the projections to pay for it.
    Among equal scores the first in the network goes first. Every convolution keeps its best channel, so
    that less than the level may be reached.

    Masked are filters and biases, and the factor and shift of each batch norm that sees the channel.
    Raises UsageError for a level that is no share, ModelError when the network cannot be traced or its
    weights are not finite.
    """
    check_level(level_fraction)
    plain = _plain_copy(module)
    graph = trace(plain, x)
    pruned = _choose(graph, plain, level_fraction)
    for each in graph.slices:
        keep = ~_at(pruned, each.classes)
        if each.role is not Role.READER and not keep.all():
            prefix, _, leaf = each.name.rpartition(".")
            ChannelMask.apply(module.get_submodule(prefix), leaf, torch.from_numpy(keep))


def make_permanent(module: nn.Module) -> None:
    """Make masked parameters plain ones again, in place, with their zeros."""
    for owner in module.modules():
        for name in _masked_names(owner):
            prune.remove(owner, name)  # type: ignore[no-untyped-call]


def pruned_channels_fraction(module: nn.Module, x: Tensor) -> float:
    """The share of prunable classes of channels that is zero; 0 for a network without any.

    x is as in `mask_channels`. Raises ModelError when the network cannot be traced.
    """
    plain = _plain_copy(module)
    dead = _dead(trace(plain, x), plain)
    return float(dead.mean()) if len(dead) else 0.0


def shrink(module: nn.Module, x: Tensor) -> nn.Module:
    """A copy without the channels that are zero: smaller convolutions, batch norms and linear layers.

    It computes what the module does, with plain parameters, and shares no tensor with it. x is as in
    `mask_channels`. Raises ModelError when the network cannot be traced, or when its Python code depends
    on the number of channels so that it fails or computes something else without them.
    """
    small = _plain_copy(module)
    graph = trace(small, x)
    dead = _spare(graph, _dead(graph, small), _order(graph, small))
    if dead.any():
        expected = _predict(small, x)
        for name in dict.fromkeys(each.name for each in graph.slices):
            _cut(small, name, [each for each in graph.slices if each.name == name], dead)
        _check_same(small, x, expected)
    return small


def _choose(graph: ChannelGraph, plain: nn.Module, level_fraction: float) -> Booleans:
    """Which classes are pruned at a level: the lowest of them, and those that are zero already."""
    pruned = _dead(graph, plain)
    order = _order(graph, plain)
    pruned[order[: round(level_fraction * graph.class_count)]] = True
    return _spare(graph, pruned, order)


def _spare(graph: ChannelGraph, pruned: Booleans, order: Integers) -> Booleans:
    """The same, but for the last class in `order` of each convolution that would have no filter left."""
    ranks = np.argsort(order)
    spared = pruned.copy()
    for each in graph.slices:
        if each.role is Role.FILTER and _at(spared, each.classes).all():
            spared[each.classes[ranks[each.classes].argmax()]] = False
    return spared


def _order(graph: ChannelGraph, plain: nn.Module) -> Integers:
    """Classes from the first to prune to the last: dead ones, then by score, then as in the network."""
    sums, counts = np.zeros(graph.class_count), np.zeros(graph.class_count)
    for each in graph.slices:
        if each.role is Role.FILTER:
            prunable = each.classes != PROTECTED
            magnitudes = _relative_norms(attribute(plain, each.name))
            if not np.isfinite(magnitudes).all():
                cause = f"{each.name} has NaN or infinity, and no magnitude to choose channels by"
                raise ModelError(cause, "give weights that training did not spoil")
            np.add.at(sums, each.classes[prunable], magnitudes[prunable])
            np.add.at(counts, each.classes[prunable], 1)
    return np.lexsort((sums / counts, ~_dead(graph, plain)))  # stable, the last key is the first


def _dead(graph: ChannelGraph, plain: nn.Module) -> Booleans:
    """Which classes have zeros in everything that could make them something else."""
    dead = np.full(graph.class_count, True)
    for each in graph.slices:
        if each.role is not Role.READER:
            alive = each.classes[~_is_plain_zero(attribute(plain, each.name))]
            dead[alive[alive != PROTECTED]] = False
    return dead


def _is_plain_zero(values: Tensor) -> Booleans:
    """Which positions of axis 0 hold nothing but zeros."""
    nonzero: Booleans = values.detach().reshape(len(values), -1).ne(0).any(1).cpu().numpy()
    return ~nonzero


def _relative_norms(filters: Tensor) -> NDArray[np.float64]:
    """The L1 norm of each filter over the mean of all; zeros where all are zero."""
    absolute = filters.detach().abs().to(torch.float64).reshape(len(filters), -1)
    norms: NDArray[np.float64] = absolute.sum(1).cpu().numpy()
    return norms / norms.mean() if norms.any() else norms


def _at(pruned: Booleans, classes: Integers) -> Booleans:
    """Whether each position is pruned; protected ones never are."""
    return np.append(pruned, False)[classes]  # PROTECTED is the last


def _cut(small: nn.Module, name: str, slices: list[Slice], dead: Booleans) -> None:
    """Remove positions of dead classes from one tensor, and tell its layer of the new size."""
    prefix, _, leaf = name.rpartition(".")
    owner, old = small.get_submodule(prefix), attribute(small, name)
    new = old.detach()
    for each in slices:
        alive = torch.from_numpy(np.flatnonzero(~_at(dead, each.classes))).to(old.device)
        new = new.index_select(each.axis, alive)
    if old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        new = new.contiguous(memory_format=torch.channels_last)
    setattr(owner, leaf, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    if isinstance(owner, nn.Conv2d) and leaf == "weight":
        owner.groups = len(new) if owner.groups > 1 else 1
        owner.out_channels, owner.in_channels = len(new), new.shape[1] * owner.groups
    elif isinstance(owner, nn.Linear):
        owner.in_features = new.shape[1]
    elif isinstance(owner, _BatchNorm):
        owner.num_features = len(new)


def _predict(module: nn.Module, x: Tensor) -> Tensor:
    with evaluating(module), torch.no_grad():
        output: Tensor = module(x.clone())
    return output


def _check_same(small: nn.Module, x: Tensor, expected: Tensor) -> None:
    name, next_step = type(small).__name__, "keep the pruned channels, as zeros"
    scale = expected.abs().max()
    if not torch.isfinite(scale):
        raise ModelError(f"{name}: its output has NaN or infinity", "correct the network or its weights")
    try:
        output = _predict(small, x)
    except Exception as error:  # the network's own code runs in there
        reason = next(iter(str(error).splitlines()), "")
        cause = f"{name} cannot run with fewer channels: {type(error).__name__}: {reason}"
        raise ModelError(cause, next_step) from error
    if output.shape != expected.shape or (output - expected).abs().max() > _SAME_WITHIN * scale:
        raise ModelError(f"{name} computes something else with fewer channels", next_step)


def _plain_copy(module: nn.Module) -> nn.Module:
    """A copy with plain parameters. deepcopy refuses results, as masked tensors are: it is given copies."""
    masked = [getattr(owner, name) for owner in module.modules() for name in _masked_names(owner)]
    copied = copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in masked})
    make_permanent(copied)
    return copied


def _masked_names(owner: nn.Module) -> list[str]:
    """The parameters of a module, not of its children, that a mask is on."""
    hooks = owner._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]
