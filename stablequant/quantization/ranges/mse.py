"""Ranges of least mean squared quantization error (StableQuant, section 3, step 3).

A narrower range makes the step finer and clips more; the sum of both errors is searched on the histogram, first one
end with the other fixed, then the other, on a coarse grid of ratios and then on a fine one around the best.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..numerics.integer_grid import Grid, affine, quantize_weight, symmetric_scale
from ..observation.histogram import Histogram

RATIOS = np.geomspace(1.0, 0.02, 64)
FINE = np.linspace(0.95, 1.05, 11)
WEIGHT_RATIOS = np.linspace(1.0, 0.3, 36)


def activations(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """The range inside the extremes of the histogram with the least squared error on it."""
    low, high = min(0.0, histogram.minimum), max(0.0, histogram.maximum)
    limits = (low, high)
    for ratios in (RATIOS, RATIOS, FINE):
        high = _best(histogram, grid, [(low, min(limits[1], high * r)) for r in _around(ratios, limits[1], high)])[1]
        low = _best(histogram, grid, [(max(limits[0], low * r), high) for r in _around(ratios, limits[0], low)])[0]
    return low, high


def weights(weight: Tensor, grid: Grid) -> Tensor:
    """For each row, the limit of least squared error: (out, n) -> (out,)."""
    largest = weight.abs().amax(dim=1)
    best, best_error = largest, torch.full_like(largest, float("inf"))
    for ratio in WEIGHT_RATIOS:
        limit = largest * float(ratio)
        scale = symmetric_scale(limit, grid)
        error = (quantize_weight(weight, scale, grid).float() * scale[:, None] - weight).square().sum(dim=1)
        best = torch.where(error < best_error, limit, best)
        best_error = torch.minimum(error, best_error)
    return best


def _around(ratios: np.ndarray, limit: float, now: float) -> np.ndarray:
    """Coarse ratios start from the limit again, fine ones from where the search stands."""
    return ratios if ratios is FINE or now == 0 else ratios * (limit / now)


def _best(histogram: Histogram, grid: Grid, candidates: list[tuple[float, float]]) -> tuple[float, float]:
    scales, zero_points = zip(*(affine(low, high, grid) for low, high in candidates), strict=True)
    noise = histogram.noise(np.array(scales), np.array(zero_points, float), grid)
    return candidates[int(noise.argmin())]
