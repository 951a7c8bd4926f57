"""Simulated rows that are made to mislead, with what a device may do to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

SAMPLES = 150


@dataclass(frozen=True)
class World:
    """How rows mislead; all as parts of the time.

    noise: standard deviation of what is new in each sample; follows: how much of the last sample's stays.
    drift: standard deviation of what a process moves by from its first sample to its last. switches: how
    often it goes from one of two modes to the other, `apart`. differ: standard deviation between processes.
    outliers: the share of samples that take 3 to 10 times as long. walk: standard deviation of what the
    machine moves by from one process to the next. tick: resolution of the timer.
    """

    noise: float = 0.02
    follows: float = 0.0
    drift: float = 0.0
    switches: float = 0.0
    apart: float = 0.25
    differ: float = 0.01
    outliers: float = 0.0
    walk: float = 0.0
    tick: float = 0.0

    def processes(
        self, rng: np.random.Generator, count: int, scale: float = 1.0, samples: int = SAMPLES
    ) -> list[np.ndarray]:
        """Of one configuration in the order in which they run, each (samples,), scale times as long."""
        phases = self.walk * np.cumsum(rng.standard_normal(count))
        return [self._process(rng, samples, phase) * scale for phase in phases]

    def _process(self, rng: np.random.Generator, samples: int, phase: float) -> np.ndarray:
        noise = lfilter([self.noise], [1.0, -self.follows], rng.standard_normal(samples + SAMPLES))[SAMPLES:]
        noise += 0.5 * self.noise * np.abs(rng.standard_normal(samples))
        noise += np.linspace(0, self.drift * rng.standard_normal(), samples)
        if self.switches:
            changes = np.cumsum(rng.random(samples) < self.switches) + rng.integers(2)
            noise += self.apart * (changes % 2)
        times = np.exp(noise + phase + self.differ * rng.standard_normal())
        if self.outliers:
            times *= np.where(rng.random(samples) < self.outliers, rng.uniform(3, 10, samples), 1)
        if self.tick:
            times = np.round(times / self.tick) * self.tick
        return 1e6 * times
