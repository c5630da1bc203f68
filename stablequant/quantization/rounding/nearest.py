"""Each weight to the nearest point of its grid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..numerics.weight_grid import QTensor, WeightGrid

NEEDS_GRAM = False


def round_weight(
    weight: Tensor, grids: Sequence[WeightGrid], gram: tuple[Tensor, Tensor] | None = None
) -> list[QTensor]:
    """A weight (out, n) on each of some grids; the inputs do not matter."""
    return [grid.hold(grid.nearest(weight)) for grid in grids]
