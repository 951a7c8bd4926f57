"""MobileNetV1 and MobileNetV2 for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn

from dlas.models.layers import Classifier, channels, conv_norm

# channels and stride of each separable convolution: Howard et al. 2017, arXiv 1704.04861, table 1
V1_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
# expansion, channels, blocks and first stride: Sandler et al. 2018, arXiv 1801.04381, table 2,
# but for the second stride, which is 2 there
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 without activation; a shortcut around them at stride 1."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = nn.Sequential(
            *conv_norm(inputs, hidden, 1),
            nn.ReLU(),
            *conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU(),
            *conv_norm(hidden, outputs, 1),
        )
        self.has_shortcut = stride == 1
        projected = self.has_shortcut and inputs != outputs
        self.shortcut = nn.Sequential(*(conv_norm(inputs, outputs, 1) if projected else []))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.residual(x)
        return y + self.shortcut(x) if self.has_shortcut else y


def mobilenetv1(width: int = 32, classes: int = 10) -> nn.Module:
    """MobileNetV1 with a stem of stride 1: a 32x32 image is 2x2 at the end.

    width: channels of the stem; the other layers scale with it. At 32, and 10 classes: 3,217,226
    parameters, and 46,354,432 multiply-accumulates for one 32x32 image (the paper's table 1 with this
    stem; the parameters are those of the well-known PyTorch CIFAR definitions).
    """
    inputs = channels(32, width, 32)
    features = [*conv_norm(3, inputs, 3), nn.ReLU()]
    for base, stride in V1_BLOCKS:
        outputs = channels(base, width, 32)
        features += [*conv_norm(inputs, inputs, 3, stride, groups=inputs), nn.ReLU()]
        features += [*conv_norm(inputs, outputs, 1), nn.ReLU()]
        inputs = outputs
    return Classifier(features, inputs, classes)


def mobilenetv2(width: int = 32, classes: int = 10) -> nn.Module:
    """MobileNetV2 with a stem and a second stage of stride 1: a 32x32 image is 4x4 at the end.

    width: channels of the stem; the other layers scale with it. At 32, and 10 classes: 2,296,922
    parameters, and 91,154,944 multiply-accumulates for one 32x32 image. They are those of the
    well-known PyTorch CIFAR definitions, which differ from the paper in three things, kept here: ReLU
    and not ReLU6; the first block has its 1x1 expansion although its factor is 1 (1,088 parameters);
    a block of stride 1 that changes the channels has a 1x1 projection for a shortcut (59,152).
    """
    inputs = channels(32, width, 32)
    features = [*conv_norm(3, inputs, 3), nn.ReLU()]
    for expansion, base, blocks, first_stride in V2_STAGES:
        outputs = channels(base, width, 32)
        for block in range(blocks):
            features.append(InvertedResidual(inputs, outputs, expansion, first_stride if block == 0 else 1))
            inputs = outputs
    last = channels(1280, width, 32)
    features += [*conv_norm(inputs, last, 1), nn.ReLU()]
    return Classifier(features, last, classes)
