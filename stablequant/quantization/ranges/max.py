"""Min-max ranges: nothing is clipped, so one outlier sets the step of the whole grid."""

from __future__ import annotations

from torch import Tensor

from ..numerics.integer_grid import Grid
from ..observation.histogram import Histogram


def activations(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """The smallest and largest value seen."""
    return histogram.minimum, histogram.maximum


def weights(weight: Tensor, grid: Grid) -> Tensor:
    """The largest magnitude of each row: (out, n) -> (out,)."""
    return weight.abs().amax(dim=1)
