"""The geometry of one 2-D convolution, and how its work is cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conv2d:
    """A convolution of NCHW input (N, CI, H, W) with weights (CO, CI/groups, KH, KW)."""

    N: int
    CI: int
    H: int
    W: int
    CO: int
    KH: int
    KW: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def CG(self) -> int:
        """Input channels that one output channel reads."""
        return self.CI // self.groups

    @property
    def OG(self) -> int:
        """Output channels of one group."""
        return self.CO // self.groups

    @property
    def OH(self) -> int:
        return out_extent(
            self.H, self.KH, self.padding[0] + self.padding[2], self.stride[0], self.dilation[0]
        )

    @property
    def OW(self) -> int:
        return out_extent(
            self.W, self.KW, self.padding[1] + self.padding[3], self.stride[1], self.dilation[1]
        )

    @property
    def depthwise(self) -> bool:
        """Whether each output channel reads a single input channel of several."""
        return self.groups > 1 and self.CG == 1

    @property
    def pointwise(self) -> bool:
        """Whether each output reads its own position alone, so that where rows end means nothing."""
        return (self.KH, self.KW) == self.stride == (1, 1) and not any(self.padding)


@dataclass(frozen=True)
class Tile:
    """What one call of the inner kernel computes: `lanes` output channels at height x width positions."""

    lanes: int
    height: int
    width: int


def out_extent(extent: int, kernel: int, padding: int, stride: int, dilation: int) -> int:
    """Output extent of a convolution along one axis, as in torch.nn.Conv2d's documentation.

    >>> out_extent(32, kernel=3, padding=2, stride=2, dilation=1)
    16
    """
    return (extent + padding - dilation * (kernel - 1) - 1) // stride + 1


def in_extent(extent: int, kernel: int, stride: int, dilation: int) -> int:
    """Input extent that `extent` neighbouring outputs read along one axis.

    >>> in_extent(16, kernel=3, stride=2, dilation=1)
    33
    """
    return (extent - 1) * stride + dilation * (kernel - 1) + 1


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
