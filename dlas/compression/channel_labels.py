"""Labels of channels: which channels of a network must live or die together, and which must live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

PROTECTED = -1  # in place of the number of a class


@dataclass(frozen=True)
class Channels:
    """What is known of axis 1 of a tensor: one label per channel.

    is_zero: whether a channel is exactly zero everywhere, if its label is of a pruned class.
    """

    labels: Integers
    is_zero: Booleans

    def marked(self, is_zero: bool) -> Channels:
        """The same labels, all channels zero when pruned or none."""
        return Channels(self.labels, np.full(len(self.labels), is_zero))

    def repeated(self, positions: int) -> Channels:
        """What flattening (N, C, ...) to (N, C * positions) makes of it."""
        return Channels(self.labels.repeat(positions), self.is_zero.repeat(positions))


class Labels:
    """Disjoint sets of labels. A set is one class of channels, prunable unless one of it is protected."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._protected: list[bool] = []

    def fresh(self, count: int) -> Channels:
        """Channels that nothing else has a part in; zero when pruned."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        self._protected += [False] * count
        return Channels(np.arange(first, first + count), np.full(count, True))

    def unite(self, some: Channels, others: Channels) -> None:
        """Tie the channels of two tensors of equal length, one by one."""
        for one, other in zip(some.labels.tolist(), others.labels.tolist(), strict=True):
            low, high = sorted((self._root(one), self._root(other)))
            self._parents[high] = low
            self._protected[low] |= self._protected[high]

    def protect(self, channels: Channels) -> None:
        """Keep these from ever being pruned."""
        for label in channels.labels.tolist():
            self._protected[self._root(label)] = True

    def classes(self) -> Integers:
        """The class of each label: numbers from 0 by first label, PROTECTED where it must live."""
        roots = [self._root(label) for label in range(len(self._parents))]
        prunable = sorted({root for root in roots if not self._protected[root]})
        numbers = {root: number for number, root in enumerate(prunable)}
        return np.array([numbers.get(root, PROTECTED) for root in roots], dtype=np.int64)

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label
