"""Low-bit weights: the points they may take, with scales of two levels.

    w^[o, i] = scale[o] (offset[o, g] + step[o, g] code[o, i])        code = 0 .. 2^bits - 1,   g = i // size

`scale` is a float for each output channel; `step` and `offset` are small integers for each group of `size` weights
that follow each other in the canonical row (for a convolution: over in-channels and kernel). They are chosen so that
offset + step code fits in int8: a weight of 2, 3 or 4 bits expands exactly to the 8-bit codes that the engine runs,
at the speed of 8 bits (progressive group quantization, QServe, arXiv 2405.04532, section 4.1). More than 4 bits are
one group for the whole row with step 1: the symmetric grid of grid.py.

Without offsets of its own (`symmetric`) a group lies around 0: 4 bits as 15 codes from -7 to 7 steps, 3 and 2 bits as
8 and 4 codes at odd half steps, where a code for 0 would cost more than it gives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...foundation.errors import InputError
from .bitpack import pack, packed_bytes, unpack

LARGEST = 127  # magnitude of an int8 code that every kernel takes
DENSE_BITS = 4  # formats up to here are packed densely; wider codes are stored as int8


@dataclass(frozen=True)
class WeightFormat:
    """Bits and groups of a weight; written w8, w4g64, w2g32z (z: with offsets, asymmetric)."""

    bits: int
    group: int | None = None  # weights in a group, None: the whole row
    asymmetric: bool = False

    @property
    def dense(self) -> bool:
        return self.bits <= DENSE_BITS

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - (1 if self.asymmetric or self.bits < DENSE_BITS else 2)

    def size(self, columns: int) -> int:
        """Weights in a group of a row that is `columns` long."""
        return columns if self.group is None else min(self.group, columns)

    def groups(self, columns: int) -> int:
        return -(-columns // self.size(columns))

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes on disk of the codes and all scales of a weight (rows, columns)."""
        if not self.dense:
            return rows * columns + 4 * rows
        of_a_group = 2 if self.asymmetric else 1
        return packed_bytes(rows * columns, self.bits) + rows * (4 + of_a_group * self.groups(columns))

    def __str__(self) -> str:
        return f"w{self.bits}" + (f"g{self.group}" if self.group else "") + ("z" if self.asymmetric else "")


def parse_format(text: str) -> WeightFormat:
    """The format that `str` wrote; InputError for anything else."""
    found = re.fullmatch(r"w([2-8])(?:g([1-9]\d{0,4}))?(z?)", text)
    if not found or (int(found[1]) > DENSE_BITS and (found[2] or found[3])):
        raise InputError(f"weight format {text!r} is not of the form w8, w4g64 or w2g32z")
    return WeightFormat(int(found[1]), int(found[2]) if found[2] else None, bool(found[3]))


@dataclass(frozen=True)
class QTensor:
    """A quantized weight: int8 `codes` (out, n) and float32 `scale` (out,), in the canonical shape.

    `grid` says how the codes of 4 bits and fewer are stored more densely; None where they are stored as they are.
    """

    codes: Tensor
    scale: Tensor
    grid: WeightGrid | None = None

    def dequantize(self) -> Tensor:
        """The float32 values on the grid, (out, n)."""
        return self.codes.float() * self.scale[:, None]


@dataclass(frozen=True)
class WeightGrid:
    """Where the weights (out, n) of a site may lie; offset + step * top is within int8."""

    format: WeightFormat
    group: Tensor  # int64 (n,): of each column
    scale: Tensor  # float32 (out,)
    steps: Tensor  # uint8 (out, groups), 1 and more
    offsets: Tensor  # int8 (out, groups)

    def of(self) -> GridPoints:
        """The points of every column."""
        step, offset = (each[:, self.group].float() for each in (self.steps, self.offsets))
        return GridPoints(self.scale[:, None], step, offset, self.format.top)

    def nearest(self, weight: Tensor) -> Tensor:
        """int8 codes (out, n) of the points nearest to a weight (out, n)."""
        return self.of().nearest(weight)

    def hold(self, codes: Tensor) -> QTensor:
        """The weight with these int8 codes (out, n), all of them on the grid."""
        return QTensor(codes, self.scale, self if self.format.dense else None)

    def rows(self, index: Tensor | slice) -> WeightGrid:
        """The grid of some rows."""
        return replace(self, scale=self.scale[index], steps=self.steps[index], offsets=self.offsets[index])

    def columns(self, index: slice | Tensor) -> WeightGrid:
        """The grid of some columns, in this order."""
        return replace(self, group=self.group[index])


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
        """The same points (k, out), with a scale (out,): what one column needs lies together."""
        return GridPoints(self.scale[:, 0], self.step.T.contiguous(), self.offset.T.contiguous(), self.top)


@dataclass(frozen=True)
class DenseWeight:
    """A low-bit weight in no more memory than it has bytes on disk."""

    packed: Tensor  # uint8
    grid: WeightGrid

    @classmethod
    def of(cls, weight: QTensor) -> DenseWeight:
        """A weight of 4 bits or fewer, packed as on disk."""
        assert weight.grid is not None
        return cls(pack(contract(weight.codes, weight.grid), weight.grid.format.bits), weight.grid)

    def expand(self) -> QTensor:
        """The weight with int8 codes."""
        rows, columns = len(self.grid.scale), len(self.grid.group)
        format = self.grid.format
        codes = unpack(self.packed, format.bits, rows * columns).view(rows, columns)
        steps, offsets = self.grid.steps, self.grid.offsets.view(torch.uint8)
        return self.grid.hold(expand(codes, steps, offsets, format.size(columns)))


def joined(grids: Sequence[WeightGrid]) -> WeightGrid:
    """Lattices of rows that follow each other as one."""
    scale, steps, offsets = (torch.cat([getattr(x, name) for x in grids]) for name in ("scale", "steps", "offsets"))
    return replace(grids[0], scale=scale, steps=steps, offsets=offsets)


def symmetric_offsets(steps: Tensor, format: WeightFormat) -> Tensor:
    """int8 offsets (out, groups) of a format without offsets of its own, from its steps."""
    return (-(steps.to(torch.int16) * format.top) // 2).to(torch.int8)


def row_grid(scale: Tensor, bits: int, columns: int) -> WeightGrid:
    """The symmetric grid of grid.py with one scale (out,) for each row."""
    half = (1 << (bits - 1)) - 1
    ones = torch.ones(len(scale), 1, dtype=torch.uint8)
    group = torch.zeros(columns, dtype=torch.int64)
    return WeightGrid(WeightFormat(bits), group, scale, ones, torch.full_like(ones, 0).to(torch.int8) - half)


def expand(codes: Tensor, steps: Tensor, offsets: Tensor, size: int) -> Tensor:
    """int8 codes (out, n) for the engine from uint8 codes (out, n), steps and offsets (out, groups).

    int8 arithmetic wraps, and what is left after both operations is in its range.
    """
    columns = codes.shape[1]
    step, offset = (x.view(torch.int8).repeat_interleave(size, 1)[:, :columns] for x in (steps, offsets))
    return codes.view(torch.int8).mul(step).add_(offset)


def contract(codes: Tensor, grid: WeightGrid) -> Tensor:
    """The uint8 codes (out, n) that `expand` makes the int8 codes (out, n) of."""
    points = grid.of()
    return ((codes - points.offset) / points.step).round_().to(torch.uint8)
