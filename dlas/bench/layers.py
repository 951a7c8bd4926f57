"""The convolutions of a network as networks of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlas.algorithms.convolution import Conv2d
from dlas.systems.autoschedule.workload import Choice, parse
from dlas.values import Compiler, ModelSpec, Weights

if TYPE_CHECKING:
    from torch import nn


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


def find_largest(workloads: Sequence[str], count: int) -> dict[str, int]:
    """Those of a network's workloads that take the most multiply-adds, alike ones counted together.

    Returns the multiply-adds of one of each. Depthwise convolutions and the first are among them.

    >>> small, large = (f"direct/dense/1x8x8x8/{co}x3x3/s1x1/p1x1x1x1/d1x1/g1/z0" for co in (8, 16))
    >>> list(find_largest([large, small, small, small], 1).values())
    [36864]
    """
    macs = {name: count_macs(parse(name).conv) for name in workloads}
    totals = Counter[str]()
    for name in workloads:
        totals[name] += macs[name]
    return {name: macs[name] for name, _ in totals.most_common(count)}


def count_macs(conv: Conv2d) -> int:
    return conv.N * conv.CO * conv.OH * conv.OW * conv.CG * conv.KH * conv.KW


def shorten(workload: str) -> str:
    """A workload's id without algorithm, format and what is usual.

    >>> shorten("direct/blocked/1x64x32x32/128x3x3/s2x2/p1x1x1x1/d1x1/g1/z0")
    '1x64x32x32/128x3x3/s2x2/p1x1x1x1'
    """
    parts = workload.split("/")[2:]
    return "/".join(part for part in parts if part not in ("s1x1", "p0x0x0x0", "d1x1", "g1", "z0"))


def as_network(workload: str) -> ModelSpec:
    """A workload as a network of PyTorch, for peers: with a bias and a ReLU, as it is searched."""
    conv = parse(workload).conv
    shape = (conv.N, conv.CI, conv.H, conv.W)
    return ModelSpec(shorten(workload), "dlas.bench.layers:convolution", shape, (("workload", workload),))


def convolution(workload: str) -> nn.Module:
    """The module of `as_network`."""
    from torch import nn

    conv = parse(workload).conv
    top, left, bottom, right = conv.padding
    is_even = (top, left) == (bottom, right)
    made = nn.Conv2d(
        conv.CI,
        conv.CO,
        (conv.KH, conv.KW),
        stride=conv.stride,
        padding=(top, left) if is_even else 0,
        dilation=conv.dilation,
        groups=conv.groups,
    )
    pads = () if is_even else (nn.ZeroPad2d((left, right, top, bottom)),)
    return nn.Sequential(*pads, made, nn.ReLU())


# What follows runs in the worker: it imports torch or TVM.


def save_network(spec: ModelSpec, folder: Path) -> None:
    """Write input.npy and oracle.npy, float32: what peers are given, and what they must compute."""
    import numpy as np

    from dlas.models import loading

    model = loading.load(spec, Weights("untrained"))
    np.save(folder / "input.npy", model.input)
    np.save(folder / "oracle.npy", model.output)


def build_variant(workload: str, compiler: Compiler, choice: Choice | None, folder: Path) -> None:
    """Write model.so, input.npy and oracle.npy of a variant, as a search has them.

    choice: None for the hand schedule. Raises ScheduleError or BuildError.
    """
    from dlas.systems.autoschedule import candidate, space

    parsed = parse(workload)
    candidate.prepare(parsed, compiler, folder)
    candidate.build(parsed, compiler, choice or space.HAND, folder / "model.so")
