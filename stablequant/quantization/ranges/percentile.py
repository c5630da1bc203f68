"""Percentile ranges: leave out a share of the values, the largest in magnitude (StableQuant, section 3, step 2)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..numerics.integer_grid import Grid
from ..observation.histogram import HALF, Histogram
from . import max as maximum

REMOVED = 0.01  # % of the values, where one share serves all layers


def activations(histogram: Histogram, grid: Grid, removed: float = REMOVED) -> tuple[float, float]:
    """The smallest range that leaves out at most `removed` % of the values, to the width of a bin.

    Magnitudes decide, so a one-sided tensor (after GELU) loses its long tail and keeps its short one.
    """
    magnitudes = histogram.counts[HALF:] + histogram.counts[:HALF][::-1]
    above = magnitudes.sum() - np.cumsum(magnitudes)  # values beyond each bin's outer edge
    threshold = (1 + int(np.argmax(above <= removed / 100.0 * magnitudes.sum()))) * histogram.width
    return max(histogram.minimum, -threshold), min(histogram.maximum, threshold)


def weights(weight: Tensor, grid: Grid) -> Tensor:
    """Like max: a row of a few hundred weights has no meaningful percentile."""
    return maximum.weights(weight, grid)
