"""Weights of 5 to 8 bits: one symmetric step for each row, int8 codes on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics.integer_grid import signed_grid, symmetric_scale
from ..numerics.weight_grid import Limits, QTensor, WeightGrid

BITS = range(5, 9)


@dataclass(frozen=True)
class Rows:
    """2^bits - 1 codes around 0 (integer_grid.py) with a scale for each row; written w8."""

    bits: int
    group: ClassVar[None] = None
    asymmetric: ClassVar[bool] = False
    sparsity: ClassVar[None] = None
    coarse: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"w{self.bits}"

    @property
    def top(self) -> int:
        return (1 << self.bits) - 2

    @property
    def stored(self) -> Rows:
        return INT8

    def grid(self, scale: Tensor, columns: int) -> WeightGrid:
        """The grid with one scale (out,) for each row."""
        ones = torch.ones(len(scale), 1, dtype=torch.uint8)
        offsets = torch.full((len(scale), 1), -(self.top // 2), dtype=torch.int8)
        return WeightGrid(self, torch.zeros(columns, dtype=torch.int64), scale, ones, offsets)

    def fit(self, weight: Tensor, limits: Limits, importance: Tensor | None = None) -> WeightGrid:
        """The grid with the limits of a range method; the inputs do not matter."""
        grid = signed_grid(self.bits)
        return self.grid(symmetric_scale(limits(weight, grid), grid), weight.shape[1])

    def whole(self, steps: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Always the same."""
        return torch.ones_like(steps), torch.full_like(offsets, -(self.top // 2))

    def bytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows

    def empty(self, shape: torch.Size) -> dict[str, Tensor]:
        return {"codes": torch.zeros(shape, dtype=torch.int8), "scales": torch.ones(shape[0])}

    def store(self, weight: QTensor, shape: torch.Size) -> dict[str, Tensor]:
        return {"codes": weight.codes.view(shape), "scales": weight.scale}

    def load(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> QTensor:
        return self.grid(tensors["scales"], shape[1:].numel()).hold(tensors["codes"].flatten(1))

    def take(self, tensors: Mapping[str, Tensor], shape: torch.Size, rows: Tensor) -> QTensor:
        part = {name: each[rows] for name, each in tensors.items()}
        return self.load(part, torch.Size([len(rows), *shape[1:]]))

    def problem(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> str | None:
        return None  # every int8 tensor is a weight


def of(bits: int, group: int | None, asymmetric: bool, sparsity: str | None = None) -> Rows | None:
    """The format with so many bits; its rows are not divided into groups."""
    if bits not in BITS or sparsity is not None:
        return None
    if group is not None or asymmetric:
        raise ValueError(f"weight_group and weight_asymmetric are for {BITS[0] - 1} bits and fewer; delete them")
    return Rows(bits)


def parse(text: str) -> Rows | None:
    """The format in a text that `str` wrote; None for another format's text."""
    found = re.fullmatch(r"w([5-8])", text)
    return Rows(int(found[1])) if found else None


INT8 = Rows(8)
