"""Networks for tests: small ones, and ones that misbehave."""

from __future__ import annotations

import os
import time

import torch
from torch import nn


def seven_classes() -> nn.Module:
    return tiny(classes=7)


def tiny(channels: int = 8, classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def crashing() -> nn.Module:
    os.abort()


def hanging() -> nn.Module:
    time.sleep(600)
    raise AssertionError("nobody waits that long")


def raising() -> nn.Module:
    raise RuntimeError("no weights today")


class ThreeDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x[:, None])


def three_dimensional() -> nn.Module:
    return ThreeDimensional()
