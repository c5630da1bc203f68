"""Each weight to the nearest point of its lattice."""

from __future__ import annotations

from torch import Tensor

from ..grid import QTensor
from ..lattice import Lattice

NEEDS_GRAM = False


def round_weight(weight: Tensor, lattice: Lattice, gram: tuple[Tensor, Tensor] | None = None) -> QTensor:
    """Codes of a weight (out, n) on a lattice; the inputs do not matter."""
    return lattice.hold(lattice.nearest(weight))
