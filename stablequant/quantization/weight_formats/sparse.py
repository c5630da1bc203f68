"""N:M sparsity on top of another format: of every m consecutive weights of a row n have codes, the others are zero.

Zero need not be a point of the grid: a weight that is not kept has a position instead of a code, and expands to the
int8 code 0. The grid is fitted to the weights with the largest |w| sqrt(importance) of their block, which is also what
is kept unless a rounding method chooses better (rounding/compensated.py).

On disk: the tensors of the other format for the kept weights alone, row by row in their order, so that a group of g
columns holds g n / m of them; and `positions` uint8 (bytes,), the place of each in its block, packed in log2(m) bits.
With 4-bit codes 2:4 takes (2 x 4 + 2 x 2) / 4 = 3 bits a weight, and the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...foundation.options import SPARSITIES
from ..numerics.bitpack import pack, packed_bytes, packed_rows, unpack
from ..numerics.sparsity import Sparsity
from ..numerics.weight_grid import Limits, QTensor, WeightFormat, WeightGrid
from . import base

POSITIONS = "positions"


@dataclass(frozen=True)
class Sparse:
    """The format `dense` with `sparsity`; written w4g64z-2:4."""

    dense: WeightFormat
    sparsity: Sparsity
    coarse: ClassVar[bool] = True  # whatever the bits: other weights have to make up for those that are zero

    def __str__(self) -> str:
        return f"{self.dense}-{self.sparsity}"

    @property
    def bits(self) -> int:
        return self.dense.bits

    @property
    def group(self) -> int | None:
        return self.dense.group

    @property
    def asymmetric(self) -> bool:
        return self.dense.asymmetric

    @property
    def top(self) -> int:
        return self.dense.top

    @property
    def stored(self) -> Sparse:
        return replace(self, dense=self.dense.stored)

    @property
    def _alone(self) -> WeightFormat:
        """The format of the kept weights alone, as a smaller weight."""
        group = None if self.group is None else self.sparsity.count(self.group)
        return base.weight_format(self.bits, group, self.asymmetric)

    def fit(self, weight: Tensor, limits: Limits, importance: Tensor | None = None) -> WeightGrid:
        """The grid of least squared error for the weights that are kept if nothing else is known."""
        power = torch.ones(weight.shape[1]) if importance is None else importance
        kept = self.sparsity.largest(weight.abs() * power.sqrt())
        return replace(self.dense.fit(weight * kept, limits, power * kept), format=self, kept=kept)

    def whole(self, steps: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        return self.dense.whole(steps, offsets)

    def bytes(self, rows: int, columns: int) -> int:
        count = self.sparsity.count(columns)
        return self._alone.bytes(rows, count) + packed_bytes(rows * count, self.sparsity.position_bits)

    def empty(self, shape: torch.Size) -> dict[str, Tensor]:
        rows, count = small = self._small(shape)
        positions = torch.zeros(packed_bytes(rows * count, self.sparsity.position_bits), dtype=torch.uint8)
        return {**self._alone.empty(small), POSITIONS: positions}

    def store(self, weight: QTensor, shape: torch.Size) -> dict[str, Tensor]:
        grid, mask, small = weight.grid, weight.grid.kept, self._small(shape)
        if mask is None or bool((weight.codes[~mask] != 0).any()):
            raise ValueError("a weight of this format has a mask, and the code 0 where it keeps nothing")
        group = grid.group[:: self.sparsity.of].repeat_interleave(self.sparsity.kept)
        alone = replace(grid, format=self._alone, group=group, kept=None).hold(weight.codes[mask].view(small))
        positions = pack(self.sparsity.positions(mask), self.sparsity.position_bits)
        return {**self._alone.store(alone, small), POSITIONS: positions}

    def load(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> QTensor:
        return self._spread(self._alone.load(tensors, self._small(shape)), self._positions(tensors, shape))

    def take(self, tensors: Mapping[str, Tensor], shape: torch.Size, rows: Tensor) -> QTensor:
        count, columns = small = self._small(shape)
        alone = {name: each for name, each in tensors.items() if name != POSITIONS}
        packed = packed_rows(tensors[POSITIONS], self.sparsity.position_bits, count, columns, rows)
        positions = unpack(packed, self.sparsity.position_bits, len(rows) * columns).view(len(rows), columns)
        return self._spread(self._alone.take(alone, small, rows), positions)

    def problem(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> str | None:
        """Rows are whole blocks, positions ascend in each, and the kept weights are a weight."""
        if shape[1:].numel() % self.sparsity.of:
            return f"its rows of {shape[1:].numel()} weights are not divided by sparsity {self.sparsity}"
        found = self._alone.problem(tensors, self._small(shape))
        return found or self.sparsity.problem(self._positions(tensors, shape))

    def _small(self, shape: torch.Size) -> torch.Size:
        """The shape of the kept weights of a weight of this shape."""
        return torch.Size([shape[0], self.sparsity.count(shape[1:].numel())])

    def _positions(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        small = self._small(shape)
        return unpack(tensors[POSITIONS], self.sparsity.position_bits, small.numel()).view(small)

    def _spread(self, alone: QTensor, positions: Tensor) -> QTensor:
        """The weight whose kept weights are `alone`, at these positions."""
        kept = self.sparsity.mask(positions)
        codes = torch.zeros(kept.shape, dtype=torch.int8).masked_scatter_(kept, alone.codes)
        group = alone.grid.group[:: self.sparsity.kept].repeat_interleave(self.sparsity.of)
        return replace(alone.grid, format=self, group=group, kept=kept).hold(codes)


def of(bits: int, group: int | None, asymmetric: bool, sparsity: str | None = None) -> Sparse | None:
    """The format with this sparsity; blocks must not lie across groups."""
    if sparsity is None:
        return None
    pattern = Sparsity.parse(sparsity)
    if not _divides(pattern, group):
        raise ValueError(
            f"weight_group is {group}, and weight_sparsity {pattern} needs a multiple of {pattern.of}; write 32 or 64"
        )
    return Sparse(base.weight_format(bits, group, asymmetric), pattern)


def parse(text: str) -> Sparse | None:
    """The format in a text that `str` wrote; None for another format's text."""
    written, _, sparsity = text.partition("-")
    if sparsity not in SPARSITIES:
        return None
    dense, pattern = base.parse(written), Sparsity.parse(sparsity)
    return Sparse(dense, pattern) if _divides(pattern, dense.group) else None


def _divides(sparsity: Sparsity, group: int | None) -> bool:
    """Whether no block lies across two groups."""
    return group is None or group % sparsity.of == 0
