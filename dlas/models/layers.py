"""What the CIFAR networks share."""

from __future__ import annotations

from torch import Tensor, nn

from dlas.errors import ModelError


def channels(base: int, width: int, default: int) -> int:
    """Scale a layer of `base` channels: base * width / default, rounded down, at least 1.

    width and default are channels of the network's first layer, as asked and as published.
    """
    if width < 1:
        raise ModelError(f"width {width} is below 1", f"{default} is the published width")
    return max(1, base * width // default)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size at stride 1, and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Classifier(nn.Module):
    """features: (N, CI, H, W) -> (N, CO, h, w), then their mean over h and w, and one linear layer."""

    def __init__(self, features: list[nn.Module], outputs: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(outputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.pool(self.features(x)).flatten(1))
        return logits
