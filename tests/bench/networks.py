"""A network for the benchmark's tests, alone in its file: what it is keyed by follows that file's imports."""

from __future__ import annotations

from torch import nn


def small() -> nn.Module:
    """Three convolutions: the second has the most multiply-adds, the third is depthwise."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
