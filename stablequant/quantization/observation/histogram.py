"""A histogram of the inputs of a site, collected in one pass over the recordings.

The bins are 2^e wide and aligned to 0. When a value falls outside, e grows and neighbouring bins are added, which is
exact: floor(x / 2^(e+1)) = floor(floor(x / 2^e) / 2). Counts are integers. So memory does not depend on the amount of
audio, the order of the recordings changes nothing, and two merged halves equal the whole, bit for bit. Recordings go
through the model one at a time, so padding is never counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..numerics.integer_grid import Grid

HALF_LOG2 = 13
HALF = 1 << HALF_LOG2  # bins on each side of 0: at least 32 for each step of an 8-bit grid over the whole range
FINEST = -100  # smallest exponent: below it everything is silence


@dataclass(frozen=True)
class Histogram:
    """Counts (2 HALF,) int64 of values in [-HALF 2^exponent, HALF 2^exponent), with the exact extremes."""

    counts: np.ndarray
    exponent: int
    minimum: float
    maximum: float

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def occupied(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (k,) float64 and counts (k,) int64 of the bins that hold something."""
        index = np.flatnonzero(self.counts)
        return (index - HALF + 0.5) * self.width, self.counts[index]

    def within(self, low: float, high: float) -> Histogram:
        """The histogram without the values whose bin lies outside [low, high]: outliers removed, not clamped."""
        counts = np.where(self._inside((np.arange(2 * HALF) - HALF + 0.5) * self.width, low, high), self.counts, 0)
        return Histogram(counts, self.exponent, max(low, self.minimum), min(high, self.maximum))

    def share_outside(self, low: float, high: float) -> float:
        """Share of the values that a range [low, high] clips, to the width of a bin."""
        centres, counts = self.occupied()
        return float(counts[~self._inside(centres, low, high)].sum() / max(1, counts.sum()))

    def _inside(self, centres: np.ndarray, low: float, high: float) -> np.ndarray:
        """Which bins lie in [low, high]; a limit at an extreme cuts nothing, not even the centre of the last bin."""
        above = (centres >= low) | (low <= self.minimum)
        below = (centres <= high) | (high >= self.maximum)
        return above & below

    def power(self) -> float:
        """Mean square of the values."""
        centres, counts = self.occupied()
        return float((centres**2 * counts).sum() / max(1, counts.sum()))

    def noise(self, scale: np.ndarray, zero_point: np.ndarray, grid: Grid) -> np.ndarray:
        """Mean squared error of the values on each of the grids, scale and zero_point (k,) -> (k,)."""
        centres, counts = self.occupied()
        scale, zero_point = scale[:, None], zero_point[:, None]
        codes = np.clip(np.floor(centres / scale + zero_point + 0.5), grid.low, grid.high)
        error = (codes - zero_point) * scale - centres
        # No product of matrices: BLAS adds in another order for every number of threads
        return np.einsum("kn,n->k", error**2, counts) / max(1, counts.sum())


def empty() -> Histogram:
    """The histogram of nothing: the neutral element of `merge`."""
    return Histogram(np.zeros(2 * HALF, np.int64), FINEST, math.inf, -math.inf)


def histogram_of(x: Tensor) -> Histogram:
    """The histogram of all elements of a float32 tensor; ValueError on NaN or infinity."""
    minimum, maximum = (float(value) for value in torch.aminmax(x.detach()))
    largest = max(-minimum, maximum)
    if not math.isfinite(largest):
        raise ValueError("not finite")
    exponent = max(FINEST, math.frexp(largest)[1] - HALF_LOG2) if largest else FINEST
    counts = torch.zeros(2 * HALF, dtype=torch.int64)
    for piece in x.detach().flatten().split(1 << 20):
        exact = piece if exponent <= 0 else piece.double()  # in float32 the smallest would underflow to 0
        bins = torch.floor(exact * math.ldexp(1.0, -exponent)).to(torch.int32).add_(HALF)
        counts += torch.bincount(bins, minlength=2 * HALF)
    return Histogram(counts.numpy(), exponent, minimum, maximum)


def merge(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of both; commutative and associative, exactly."""
    exponent = max(a.exponent, b.exponent)
    counts = _coarsened(a, exponent) + _coarsened(b, exponent)
    return Histogram(counts, exponent, min(a.minimum, b.minimum), max(a.maximum, b.maximum))


def coarse(h: Histogram, bins: int) -> Histogram:
    """The same values in at most this many bins (2 or more) from the first to the last: the finest form, exact."""
    index = np.flatnonzero(h.counts) - HALF
    exponent = h.exponent
    while len(index) and (index[-1] >> exponent - h.exponent) - (index[0] >> exponent - h.exponent) >= bins:
        exponent += 1
    return Histogram(_coarsened(h, exponent), exponent, h.minimum, h.maximum)


def _coarsened(h: Histogram, exponent: int) -> np.ndarray:
    """Counts of the same values in bins 2^exponent wide, exponent >= the histogram's."""
    if exponent == h.exponent:
        return h.counts
    index = np.flatnonzero(h.counts)
    counts = np.zeros_like(h.counts)
    shift = min(62, exponent - h.exponent)
    np.add.at(counts, ((index - HALF) >> shift) + HALF, h.counts[index])
    return counts
