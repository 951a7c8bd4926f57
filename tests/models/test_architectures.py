"""The networks are the published ones: counted layer by layer from the papers' tables, not from the code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dlas.errors import ModelError
from dlas.models.mobilenet import mobilenetv1, mobilenetv2
from dlas.models.resnet import resnet18
from dlas.models.vgg import vgg16


class Layer(NamedTuple):
    """A convolution with batch norm, or the classifier as one over a single pixel; size is of its output."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    groups: int = 1
    has_bias: bool = False
    has_norm: bool = True

    @property
    def weights(self) -> int:
        return self.inputs // self.groups * self.outputs * self.kernel**2

    @property
    def parameters(self) -> int:
        return self.weights + self.outputs * self.has_bias + 2 * self.outputs * self.has_norm

    @property
    def macs(self) -> int:
        return self.weights * self.size**2


def classifier(inputs: int) -> Layer:
    return Layer(inputs, 10, 1, 1, has_bias=True, has_norm=False)


def resnet18_layers() -> list[Layer]:
    """Table 1 of He et al. 2016, 18 layers: two blocks of two 3x3 convolutions at each of four sizes."""
    layers = [Layer(3, 64, 3, 32), *[Layer(64, 64, 3, 32)] * 4]
    for inputs, outputs, size in ((64, 128, 16), (128, 256, 8), (256, 512, 4)):
        layers += [Layer(inputs, outputs, 3, size), *[Layer(outputs, outputs, 3, size)] * 3]
        layers.append(Layer(inputs, outputs, 1, size))
    return [*layers, classifier(512)]


def vgg16_layers() -> list[Layer]:
    """Table 1 of Simonyan & Zisserman 2015, column D."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sizes = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    layers = [
        Layer(i, o, 3, size, has_bias=True) for (i, o), size in zip(pairwise(widths), sizes, strict=True)
    ]
    return [*layers, classifier(512)]


def mobilenetv1_layers() -> list[Layer]:
    """Table 1 of Howard et al. 2017, with a stem of stride 1."""
    widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    sizes = [32, 16, 16, 8, 8, 4, 4, 4, 4, 4, 4, 2, 2]
    layers = [Layer(3, 32, 3, 32)]
    for (i, o), size in zip(pairwise(widths), sizes, strict=True):
        layers += [Layer(i, i, 3, size, groups=i), Layer(i, o, 1, size)]
    return [*layers, classifier(1024)]


def mobilenetv2_layers() -> list[Layer]:
    """Table 2 of Sandler et al. 2018, the stem and the second stage at stride 1, one row a block.

    Each block is inputs, expansion, outputs, size before and size after; the four at stride 1 that change
    the channels have a projection.
    """
    blocks = [
        *[(32, 1, 16, 32, 32), (16, 6, 24, 32, 32), (24, 6, 24, 32, 32)],
        *[(24, 6, 32, 32, 16), (32, 6, 32, 16, 16), (32, 6, 32, 16, 16)],
        *[(32, 6, 64, 16, 8), (64, 6, 64, 8, 8), (64, 6, 64, 8, 8), (64, 6, 64, 8, 8)],
        *[(64, 6, 96, 8, 8), (96, 6, 96, 8, 8), (96, 6, 96, 8, 8)],
        *[(96, 6, 160, 8, 4), (160, 6, 160, 4, 4), (160, 6, 160, 4, 4)],
        (160, 6, 320, 4, 4),
    ]
    layers = [Layer(3, 32, 3, 32)]
    for inputs, expansion, outputs, before, after in blocks:
        hidden = inputs * expansion
        layers.append(Layer(inputs, hidden, 1, before))
        layers += [Layer(hidden, hidden, 3, after, groups=hidden), Layer(hidden, outputs, 1, after)]
        if before == after and inputs != outputs:
            layers.append(Layer(inputs, outputs, 1, after))
    return [*layers, Layer(320, 1280, 1, 4), classifier(1280)]


# The definitions for ImageNet that torchvision (and Keras, for MobileNetV1) publish, with another stem or
# classifier: 1000 classes, 224x224 images.
PUBLISHED = {
    resnet18: 11_689_512 - (512 + 1) * 1000 - 64 * 3 * 7 * 7 + 64 * 3 * 3 * 3 + (512 + 1) * 10,
    vgg16: 138_365_992 - (25_088 + 1) * 4096 - (4096 + 1) * 4096 - (4096 + 1) * 1000 + (512 + 1) * 10,
    mobilenetv1: 4_231_976 - (1024 + 1) * 1000 + (1024 + 1) * 10,
    mobilenetv2: 3_504_872 - (1280 + 1) * 1000 + (1280 + 1) * 10 + 1_088 + 59_152,
}
NETWORKS = [
    (resnet18, resnet18_layers(), 11_173_962, 555_422_720),
    (vgg16, vgg16_layers(), 14_728_266, 313_201_664),
    (mobilenetv1, mobilenetv1_layers(), 3_217_226, 46_354_432),
    (mobilenetv2, mobilenetv2_layers(), 2_296_922, 91_154_944),
]


def layers_of(module: nn.Module) -> list[Layer]:
    """What the convolutions and linear layers of a network are for a 32x32 image."""
    found: list[Layer] = []

    def record(layer: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            shape = (
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size[0],
                output.shape[-1],
                layer.groups,
            )
            found.append(Layer(*shape, has_bias=layer.bias is not None))
        elif isinstance(layer, nn.Linear):
            found.append(Layer(layer.in_features, layer.out_features, 1, 1, has_bias=True, has_norm=False))

    for layer in module.modules():
        layer.register_forward_hook(record)
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, 32, 32))
    return found


@pytest.mark.parametrize(
    ("make", "layers", "parameters", "macs"), NETWORKS, ids=lambda v: getattr(v, "__name__", "")
)
def test_layers_parameters_and_macs_are_the_published_ones(
    make: Callable[..., nn.Module], layers: list[Layer], parameters: int, macs: int
) -> None:
    module = make()
    assert Counter(layers_of(module)) == Counter(layers)
    assert (
        sum(p.numel() for p in module.parameters()) == parameters == sum(layer.parameters for layer in layers)
    )
    assert macs == sum(layer.macs for layer in layers)
    assert parameters == PUBLISHED[make]
    assert f"{parameters:,}" in str(make.__doc__)
    assert f"{macs:,}" in str(make.__doc__)


@pytest.mark.parametrize(
    ("make", "layers"), [row[:2] for row in NETWORKS], ids=lambda v: getattr(v, "__name__", "")
)
def test_width_and_classes_scale_every_layer(make: Callable[..., nn.Module], layers: list[Layer]) -> None:
    default = layers[0].outputs
    narrow = layers_of(make(width=default // 4, classes=7))

    def quarter(layer: Layer) -> Layer:
        inputs = layer.inputs if layer is layers[0] else layer.inputs // 4
        outputs = 7 if layer is layers[-1] else layer.outputs // 4
        return layer._replace(inputs=inputs, outputs=outputs, groups=max(1, layer.groups // 4))

    assert Counter(narrow) == Counter(map(quarter, layers))


@pytest.mark.parametrize("make", [row[0] for row in NETWORKS])
def test_the_narrowest_network_has_a_channel_in_every_layer(make: Callable[..., nn.Module]) -> None:
    assert all(layer.inputs >= 1 and layer.outputs >= 1 for layer in layers_of(make(width=1)))
    with pytest.raises(ModelError, match="width 0 is below 1"):
        make(width=0)
