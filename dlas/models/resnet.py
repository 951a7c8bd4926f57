"""ResNet18 for CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlas.models.layers import Classifier, channels, conv_norm

# channels and first stride of each pair of blocks: He et al. 2016, arXiv 1512.03385, table 1, 18 layers
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: projected by a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_norm(inputs, outputs, 3, stride), nn.ReLU(), *conv_norm(outputs, outputs, 3)
        )
        keeps_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if keeps_shape else conv_norm(inputs, outputs, 1, stride)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def resnet18(width: int = 64, classes: int = 10) -> nn.Module:
    """ResNet18 with the CIFAR stem: one 3x3 convolution of stride 1, no max pool.

    width: channels of the stem; the other layers scale with it. At 64, and 10 classes: 11,173,962
    parameters, and 555,422,720 multiply-accumulates for one 32x32 image (the paper's table 1 with
    this stem; the parameters are those of the well-known PyTorch CIFAR definitions).
    """
    sizes = [channels(base, width, 64) for base, _ in STAGES]
    features = [*conv_norm(3, sizes[0], 3), nn.ReLU()]
    inputs = sizes[0]
    for outputs, (_, stride) in zip(sizes, STAGES, strict=True):
        features += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return Classifier(features, inputs, classes)
