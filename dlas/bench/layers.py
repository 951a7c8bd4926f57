"""The convolutions of a network as networks of their own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dlas.values import ModelSpec, Weights


@dataclass(frozen=True)
class Layer:
    """One convolution. macs: its multiply-adds, times how often the network has it."""

    spec: ModelSpec
    macs: int


def list_layers(spec: ModelSpec, count: int) -> list[Layer]:
    """The convolutions of a network that take the most multiply-adds, alike ones counted together.

    Not its first, nor depthwise ones; nor those that the arguments of a sweep cannot say: of unequal sizes,
    strides or paddings, or dilated. Imports torch. Raises what loading the network raises.
    """
    import torch
    from torch import Tensor, nn

    from dlas.models import loading

    model = loading.load(spec, Weights("untrained"))
    ran: list[tuple[nn.Conv2d, tuple[int, ...], int]] = []

    def note(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append((conv, tuple(inputs[0].shape), output[0].numel() * conv.weight[0].numel()))

    convolutions = [module for module in model.module.modules() if isinstance(module, nn.Conv2d)]
    handles = [conv.register_forward_hook(note) for conv in convolutions]
    with torch.no_grad():
        model.module(torch.from_numpy(model.input))
    for handle in handles:
        handle.remove()
    found: Counter[ModelSpec] = Counter()
    for conv, shape, macs in ran[1:]:
        is_depthwise = conv.groups == conv.in_channels > 1
        square = {conv.kernel_size, conv.stride, conv.padding, conv.dilation, shape[2:]}
        is_square = all(isinstance(pair, tuple) and len(set(pair)) == 1 for pair in square)
        if is_square and not is_depthwise and conv.dilation == (1, 1):
            found[_alone(conv.in_channels, conv.out_channels, conv, shape[2])] += macs
    return [Layer(layer, macs) for layer, macs in found.most_common(count)]


def _alone(inputs: int, outputs: int, conv: object, size: int) -> ModelSpec:
    """A square convolution as a network."""
    kernel, stride, padding = (getattr(conv, name)[0] for name in ("kernel_size", "stride", "padding"))
    arguments = {
        "bias": False,
        "groups": getattr(conv, "groups", 1),
        "in_channels": inputs,
        "kernel_size": kernel,
        "out_channels": outputs,
        "padding": padding,
        "stride": stride,
    }
    marks = {"stride": stride, "groups": arguments["groups"], "padding": padding}
    usual = {"stride": 1, "groups": 1, "padding": kernel // 2}
    unusual = "".join(f"_{mark}{value}" for mark, value in marks.items() if value != usual[mark])
    name = f"conv{kernel}x{kernel}_{inputs}_{outputs}_at_{size}{unusual}"
    return ModelSpec(name, "torch.nn:Conv2d", (1, inputs, size, size), tuple(sorted(arguments.items())))
