"""Each weight to the nearest point of its grid."""

from __future__ import annotations

from torch import Tensor

from ..grid import Grid, QTensor, quantize_weight


def round_weight(weight: Tensor, scale: Tensor, grid: Grid) -> QTensor:
    """Codes of a weight (out, n) with one scale for each row (out,)."""
    return QTensor(quantize_weight(weight, scale, grid), scale)
