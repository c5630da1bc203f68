"""Each weight to the nearest point of its lattice."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..numerics.activation_grid import QTensor
from ..numerics.weight_grid import Lattice

NEEDS_GRAM = False


def round_weight(
    weight: Tensor, lattices: Sequence[Lattice], gram: tuple[Tensor, Tensor] | None = None
) -> list[QTensor]:
    """A weight (out, n) on each of some lattices; the inputs do not matter."""
    return [lattice.hold(lattice.nearest(weight)) for lattice in lattices]
