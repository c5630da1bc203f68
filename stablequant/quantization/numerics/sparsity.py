"""N:M sparsity: of every m consecutive weights of a row n are kept, and the others are exactly zero.

The rows are those of the canonical weight: in a convolution the taps of a channel follow each other, then the next
channel's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...foundation.options import SPARSITIES


@dataclass(frozen=True)
class Sparsity:
    """`kept` of every `of` weights; written 2:4."""

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"

    @classmethod
    def parse(cls, text: str) -> Sparsity:
        """The sparsity that `str` wrote; ValueError, in the words of plan.json, for one that there is not."""
        if text not in SPARSITIES:
            raise ValueError(f"weight_sparsity is {text!r}; it must be one of {', '.join(SPARSITIES)}")
        return cls(*map(int, text.split(":")))

    @property
    def position_bits(self) -> int:
        """Bits of the position of a kept weight in its block."""
        return (self.of - 1).bit_length()

    def count(self, columns: int) -> int:
        """Kept weights of a row that is `columns` long, a multiple of `of`."""
        return columns // self.of * self.kept

    def largest(self, scores: Tensor) -> Tensor:
        """The mask, bool (..., n), of the largest scores (..., n) of each block; the first ones of equal scores."""
        blocks = scores.unflatten(-1, (-1, self.of))
        order = blocks.argsort(dim=-1, descending=True, stable=True)[..., : self.kept]
        return torch.zeros_like(blocks, dtype=torch.bool).scatter_(-1, order, True).flatten(-2)

    def positions(self, mask: Tensor) -> Tensor:
        """uint8 (out, count): where in its block each kept weight of a mask (out, n) lies, in the order of a row."""
        places = torch.arange(self.of, dtype=torch.uint8).repeat(mask.shape[1] // self.of)
        return places.expand_as(mask)[mask].view(len(mask), -1)

    def mask(self, positions: Tensor) -> Tensor:
        """The mask, bool (out, n), with these positions (out, count)."""
        found = positions.unflatten(1, (-1, self.kept))[..., None] == torch.arange(self.of, dtype=torch.uint8)
        return found.any(2).flatten(1)

    def problem(self, positions: Tensor) -> str | None:
        """What is wrong with positions (out, count) that a file may hold: those of a block have to ascend."""
        blocks = positions.view(-1, self.kept)
        return None if bool((blocks[:, 1:] > blocks[:, :-1]).all()) else "its positions of kept weights do not ascend"
