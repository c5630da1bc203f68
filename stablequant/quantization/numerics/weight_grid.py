"""Quantized weights: the points they may take, with scales of two levels, and what a format of them has to offer.

    w^[o, i] = scale[o] (offset[o, g] + step[o, g] code[o, i])        code = 0 .. top,   g = group of column i

`scale` is a float for each output channel; `step` and `offset` are small integers for each group of columns. They are
chosen so that offset + step code fits in int8: a weight of any format expands exactly to the 8-bit codes that the
engine runs, at the speed of 8 bits (progressive group quantization, QServe, arXiv 2405.04532, section 4.1).

A format (a file of weight_formats/) finds the grid of a weight and has a pair of pure functions for its
tensors on disk: `store` and `load`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .integer_grid import Grid
from .sparsity import Sparsity

LARGEST = 127  # magnitude of an int8 code that every kernel takes

Limits = Callable[[Tensor, Grid], Tensor]  # a range method: the limit (out,) of each row of a weight (out, n)


class WeightFormat(Protocol):
    """How the weights of a site are quantized and stored; `str` writes it, `parse` of its file reads it.

    Where a `shape` is asked for, it is that of the float weight: (out, in) or (out, in / groups, kernel).
    """

    @property
    def bits(self) -> int: ...
    @property
    def group(self) -> int | None:
        """Weights that share a step; None: the whole row."""

    @property
    def asymmetric(self) -> bool:
        """Whether groups have offsets of their own."""

    @property
    def sparsity(self) -> Sparsity | None:
        """How many of its weights are kept; None: all."""

    @property
    def coarse(self) -> bool:
        """Whether rounding to nearest loses words: rounding then makes up for its errors, and trials use 8 bits."""

    @property
    def top(self) -> int:
        """The largest code."""

    @property
    def stored(self) -> WeightFormat:
        """The format that a checkpoint names: formats that are stored alike have the same."""

    def fit(self, weight: Tensor, limits: Limits, importance: Tensor | None = None) -> WeightGrid:
        """The grid of a float32 weight (out, n).

        `importance` (n,) weighs the columns: the second moments of the inputs, which make the squared error that of
        the output if inputs were uncorrelated. One of (out, n) weighs each weight; it is 0 where none is kept.
        """

    def whole(self, steps: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """The steps and offsets (out, groups) that a grid of this format can have and that are nearest, as floats."""

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes on disk of the codes and all scales of a weight (rows, columns)."""

    def empty(self, shape: torch.Size) -> dict[str, Tensor]:
        """Tensors of the names, types and shapes that `store` gives, before they have values."""

    def store(self, weight: QTensor, shape: torch.Size) -> dict[str, Tensor]:
        """The tensors of a weight of this format as a checkpoint holds them."""

    def load(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> QTensor:
        """The weight that `store` made these tensors of."""

    def take(self, tensors: Mapping[str, Tensor], shape: torch.Size, rows: Tensor) -> QTensor:
        """Some rows (int64) of the weight that `store` made these tensors of, without expanding the others."""

    def problem(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> str | None:
        """What is wrong with tensors that a file may hold; None when they are a weight."""


@dataclass(frozen=True)
class QTensor:
    """A quantized weight: int8 `codes` (out, n), in the canonical shape, on the points of a grid.

    Weights that the grid does not keep have the code 0.
    """

    codes: Tensor
    grid: WeightGrid

    @property
    def scale(self) -> Tensor:
        """float32 (out,)"""
        return self.grid.scale

    @property
    def format(self) -> WeightFormat:
        return self.grid.format

    def dequantize(self) -> Tensor:
        """The float32 values on the grid, (out, n)."""
        return self.codes.float() * self.scale[:, None]


@dataclass(frozen=True)
class WeightGrid:
    """The values that the weights (out, n) of a site can take; offset + step * top is within int8."""

    format: WeightFormat
    group: Tensor  # int64 (n,): of each column
    scale: Tensor  # float32 (out,)
    steps: Tensor  # uint8 (out, groups), 1 and more
    offsets: Tensor  # int8 (out, groups)
    kept: Tensor | None = None  # bool (out, n), of a format with sparsity: the other weights are 0, on the grid or not

    def of(self) -> GridPoints:
        """The points of every column."""
        step, offset = (each[:, self.group].float() for each in (self.steps, self.offsets))
        return GridPoints(self.scale[:, None], step, offset, self.format.top)

    def nearest(self, weight: Tensor) -> Tensor:
        """int8 codes (out, n) of the points nearest to a weight (out, n)."""
        codes = self.of().nearest(weight)
        return codes if self.kept is None else codes.mul_(self.kept)

    def hold(self, codes: Tensor, kept: Tensor | None = None) -> QTensor:
        """The weight with these int8 codes (out, n), all of them on the grid, or on one that keeps others."""
        return QTensor(codes, self if kept is None else replace(self, kept=kept))

    def rows(self, index: Tensor | slice) -> WeightGrid:
        """The grid of some rows."""
        kept = None if self.kept is None else self.kept[index]
        return replace(self, scale=self.scale[index], steps=self.steps[index], offsets=self.offsets[index], kept=kept)

    def columns(self, index: slice | Tensor) -> WeightGrid:
        """The grid of some columns, in this order."""
        kept = None if self.kept is None else self.kept[:, index]
        return replace(self, group=self.group[index], kept=kept)


@dataclass(frozen=True)
class GridPoints:
    """A grid spread out over columns: scale (out, 1), step and offset (out, k), all float32."""

    scale: Tensor
    step: Tensor
    offset: Tensor
    top: int

    def nearest(self, weight: Tensor) -> Tensor:
        """int8 codes of the points nearest to a weight (out, k)."""
        steps = torch.round((weight / self.scale - self.offset) / self.step).clamp_(0, self.top)
        return steps.mul_(self.step).add_(self.offset).to(torch.int8)

    def by_columns(self) -> GridPoints:
        """The same points as (k, out), with a scale (out,), so that the values of one column are contiguous."""
        return GridPoints(self.scale[:, 0], self.step.T.contiguous(), self.offset.T.contiguous(), self.top)


@dataclass(frozen=True)
class StoredWeight:
    """A weight in no more memory than it has bytes on disk."""

    format: WeightFormat
    shape: torch.Size
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, weight: QTensor) -> StoredWeight:
        """A weight as its format stores it."""
        shape = weight.codes.shape
        return cls(weight.format, shape, weight.format.store(weight, shape))

    def expand(self) -> QTensor:
        """The weight with int8 codes."""
        return self.format.load(self.tensors, self.shape)


def joined(grids: Sequence[WeightGrid]) -> WeightGrid:
    """Grids of rows that follow each other as one."""
    scale, steps, offsets = (torch.cat([getattr(x, name) for x in grids]) for name in ("scale", "steps", "offsets"))
    return replace(grids[0], scale=scale, steps=steps, offsets=offsets, kept=_masks(grids, 0))


def beside(grid: WeightGrid, parts: Sequence[QTensor]) -> QTensor:
    """The weight on a grid whose columns are those of weights on the same grid's columns, one after the other."""
    return grid.hold(torch.cat([part.codes for part in parts], 1), _masks([part.grid for part in parts], 1))


def _masks(grids: Sequence[WeightGrid], dim: int) -> Tensor | None:
    masks = [grid.kept for grid in grids if grid.kept is not None]
    return torch.cat(masks, dim) if masks else None
