"""VGG16 for CIFAR."""

from __future__ import annotations

from torch import nn

from dlas.models.layers import Classifier, channels

# channels and number of convolutions between poolings: Simonyan & Zisserman 2015, arXiv 1409.1556, table 1, D
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(width: int = 64, classes: int = 10) -> nn.Module:
    """VGG16 with batch norm after each of its 13 convolutions, which keep their biases, and one linear layer.

    width: channels of the first layer; the others scale with it. At 64, and 10 classes: 14,728,266
    parameters, and 313,201,664 multiply-accumulates for one 32x32 image. The five poolings leave one
    pixel of a 32x32 image, so the paper's hidden linear layers have no place; the parameters are those
    of the well-known PyTorch CIFAR definitions.
    """
    features: list[nn.Module] = []
    inputs = 3
    for base, convolutions in STAGES:
        outputs = channels(base, width, 64)
        for _ in range(convolutions):
            features += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        features.append(nn.MaxPool2d(2))
    return Classifier(features, inputs, classes)
