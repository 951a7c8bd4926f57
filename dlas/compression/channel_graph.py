"""Which parameters belong to which channel of a network, found by following channels through its graph.

The graph is torch.export's, before decomposition, and not torch.fx's symbolic trace. It is what compiling
a network needs anyway, so that no network is turned away here alone; Python's control flow and functional
calls are resolved in it; and its tensors have shapes. A size that was given as -1 still is -1 in it, which
tells a flatten that adapts to fewer channels from one with a number written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlas.compression import channel_operators as operators
from dlas.compression.channel_labels import PROTECTED, Channels, Integers, Labels
from dlas.errors import ModelError

# Of an operator whose results are no channels of a convolution, but which takes prunable ones.
ENDED = Channels(np.empty(0, np.int64), np.empty(0, np.bool_))


class Role(Enum):
    """What a channel is to a parameter: it makes it (a filter), follows it, or only reads it."""

    FILTER = "filter"
    FOLLOWER = "follower"
    READER = "reader"


@dataclass(frozen=True)
class Slice:
    """One axis of a parameter or buffer (`name` as in the state dict): the class at each position.

    A pruned class is zero in filters and followers. Readers (a convolution's inputs, running statistics)
    may hold anything there, as it is multiplied by zero.
    """

    name: str
    axis: int
    role: Role
    classes: Integers


@dataclass(frozen=True)
class ChannelGraph:
    """The prunable channels of a network: classes 0 to class_count - 1. Slices without any are left out."""

    slices: tuple[Slice, ...]
    class_count: int


def trace(module: nn.Module, x: Tensor) -> ChannelGraph:
    """Follow the channels of a network in eval mode, which it is put into for a moment.

    module has plain parameters; x is an input of it, (N, C, H, W). Raises ModelError when torch.export
    cannot take it.
    """
    try:
        with evaluating(module):
            program = torch.export.export(module, (x.detach().clone(),))
    except Exception as error:  # the network's own code runs in there
        reason = next(iter(str(error).splitlines()), "")
        cause = f"torch.export cannot export {type(module).__name__}: {type(error).__name__}: {reason}"
        raise ModelError(cause, "correct the network or its input") from error
    return _Tracer(module, program).run()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and each of its modules back into its own."""
    training = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in training.items():
            each.training = mode


class _Tracer:
    """One walk over a graph: `channels` holds what is known of each tensor that has prunable channels."""

    def __init__(self, module: nn.Module, program: torch.export.ExportedProgram) -> None:
        self.module = module
        self.nodes = program.graph.nodes
        self.labels = Labels()
        self.channels: dict[fx.Node, Channels] = {}
        self.slices: list[tuple[str, int, Role, Channels]] = []
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.uses: dict[int, int] = {}  # of a tensor, whatever its names
        for node in self.nodes:
            if node.op == "placeholder" and node.name in self.names:
                tensor = id(attribute(module, self.names[node.name]))
                self.uses[tensor] = self.uses.get(tensor, 0) + len(node.users)

    def run(self) -> ChannelGraph:
        for node in self.nodes:
            if node.op != "placeholder":
                self._visit(node)
        classes = self.labels.classes()
        found = [(name, axis, role, classes[channels.labels]) for name, axis, role, channels in self.slices]
        slices = tuple(Slice(*each) for each in found if (each[3] != PROTECTED).any())
        return ChannelGraph(slices, int(classes.max(initial=PROTECTED)) + 1)

    def _visit(self, node: fx.Node) -> None:
        """Find the channels of what an operator returns; protect all that enters when it is unknown."""
        name = operators.base_name(node)
        if name in operators.CHECKS:
            return
        arguments = operators.arguments(node)
        match name:
            case "conv2d":
                found = self._convolution(**arguments)
            case "batch_norm":
                found = self._batch_norm(**arguments)
            case "linear":
                found = self._linear(**arguments)
            case "cat":
                found = self._concatenation(node, **arguments)
            case _ if name in operators.PAIRWISE:
                found = self._pair(name, **arguments)
            case _:
                found = operators.kept(node, name, arguments, self.channels)
        if found is ENDED:
            return
        if found is None or len(found.labels) != operators.channel_count(node):
            for entering in node.all_input_nodes:
                self._protect(entering)
            return
        self.channels[node] = found
        if operators.is_in_place(node):  # the tensor that it changed may be read again
            self._protect_nonzero(found)

    def _convolution(
        self, input: fx.Node, weight: fx.Node, bias: fx.Node | None, groups: int = 1, **_: Any
    ) -> Channels | None:
        name = self._owned(nn.Conv2d, weight=weight, bias=bias)
        if name is None or len(operators.shape_of(input)) != 4:
            return None
        outputs, inputs = operators.shape_of(weight)[:2]
        entering = self.channels.get(input)
        if groups == 1:
            self._read(name, entering)
            channels = self.labels.fresh(outputs)
        elif entering is not None and inputs == 1 and groups == outputs:  # depthwise
            channels = entering.marked(is_zero=True)
        else:
            return None
        self.slices.append((f"{name}weight", 0, Role.FILTER if groups == 1 else Role.FOLLOWER, channels))
        if bias is not None:
            self.slices.append((f"{name}bias", 0, Role.FOLLOWER, channels))
        return channels

    def _batch_norm(
        self,
        input: fx.Node,
        weight: fx.Node | None,
        bias: fx.Node | None,
        running_mean: fx.Node | None,
        running_var: fx.Node | None,
        **_: Any,
    ) -> Channels | None:
        tensors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        name = self._owned(_BatchNorm, **tensors)
        entering = self.channels.get(input)
        if name is None or entering is None:
            return None
        for leaf, tensor in tensors.items():
            if tensor is not None:
                role = Role.FOLLOWER if leaf in ("weight", "bias") else Role.READER
                self.slices.append((f"{name}{leaf}", 0, role, entering))
        # without a factor, what is left of a channel of zeros is minus its running mean
        return entering.marked(is_zero=weight is not None and bias is not None)

    def _linear(self, input: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Channels | None:
        name = self._owned(nn.Linear, weight=weight, bias=bias)
        if name is None or len(operators.shape_of(input)) != 2:
            return None
        self._read(name, self.channels.get(input))
        return ENDED

    def _concatenation(self, node: fx.Node, tensors: list[fx.Node], dim: int = 0) -> Channels | None:
        axes = len(operators.shape_of(node))
        if dim % axes != 1 or any(len(operators.shape_of(part)) != axes for part in tensors):
            return None
        parts = [self.channels.get(part) or self._living(part) for part in tensors]
        labels = np.concatenate([part.labels for part in parts])
        return Channels(labels, np.concatenate([part.is_zero for part in parts]))

    def _pair(self, name: str, self_: Any, other: Any, **_: Any) -> Channels | None:
        """An operator on two tensors, or on a tensor and a number, element by element."""
        one, two = (self.channels.get(each) for each in (self_, other))
        if one is not None and two is not None and len(one.labels) == len(two.labels):
            if len(operators.shape_of(self_)) != len(operators.shape_of(other)) or name == "div":
                return None
            self.labels.unite(one, two)
            return Channels(one.labels, operators.PAIRWISE[name](one.is_zero, two.is_zero))
        if one is None or (two is not None and len(two.labels) > len(one.labels)):
            self_, other, one, two = other, self_, two, one
            if name == "div":
                return None
        if one is None or not operators.spares_channels(self_, other):
            return None
        if two is not None:
            self.labels.protect(two)
        return Channels(one.labels, one.is_zero & operators.keeps_zero(name, other))

    def _living(self, part: fx.Node) -> Channels:
        channels = self.labels.fresh(operators.shape_of(part)[1])
        self.labels.protect(channels)
        return channels

    def _read(self, name: str, entering: Channels | None) -> None:
        """A layer multiplies these channels, so that those of zeros add nothing."""
        if entering is not None:
            self._protect_nonzero(entering)
            self.slices.append((f"{name}weight", 1, Role.READER, entering))

    def _owned(self, kind: type[nn.Module], **tensors: fx.Node | None) -> str | None:
        """The prefix, `layer.`, of the one module of this kind that has these, and uses them only here."""
        prefixes = set()
        for leaf, node in tensors.items():
            if node is None:
                continue
            name = self.names.get(node.name, "")
            prefix, _, last = name.rpartition(".")
            if last != leaf or self.uses[id(attribute(self.module, name))] != 1:
                return None
            prefixes.add(prefix)
        if len(prefixes) != 1 or not isinstance(self.module.get_submodule(prefix), kind):
            return None
        return f"{prefix}." if prefix else ""

    def _protect(self, node: fx.Node) -> None:
        if node in self.channels:
            self.labels.protect(self.channels[node])

    def _protect_nonzero(self, channels: Channels) -> None:
        nonzero = ~channels.is_zero
        self.labels.protect(Channels(channels.labels[nonzero], channels.is_zero[nonzero]))


def attribute(module: nn.Module, name: str) -> Any:
    """A parameter or buffer by its name in the state dict."""
    prefix, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(prefix), leaf)
