"""Weights of 4, 3 and 2 bits: groups of a row share a step, and codes are packed into dense bytes.

A group without an offset of its own is centred on 0: 4 bits as 15 codes from -7 to 7 steps, 3 and 2 bits as 8 and 4
codes at odd half steps, because there a code for 0 would cost more than it gains.

On disk: `codes` uint8 (bytes,), `steps` uint8 (out, groups), `offsets` int8 (out, groups) where groups have their own,
`scales` float32 (out,).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import weight_fit
from ..numerics.bitpack import pack, packed_bytes, packed_rows, unpack
from ..numerics.weight_fit import Groups
from ..numerics.weight_grid import LARGEST, Limits, QTensor, WeightGrid

BITS = range(2, 5)


@dataclass(frozen=True)
class Packed(Groups):
    """Groups with dense codes; written w4, w4g64, w2g32z (z: with offsets, asymmetric)."""

    sparsity: ClassVar[None] = None
    coarse: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"w{self.bits}" + (f"g{self.group}" if self.group else "") + ("z" if self.asymmetric else "")

    @property
    def stored(self) -> Packed:
        return self

    def grid(self, scale: Tensor, steps: Tensor, offsets: Tensor, columns: int) -> WeightGrid:
        """The grid with a scale (out,) for each row, and steps and offsets (out, groups)."""
        return WeightGrid(self, torch.arange(columns) // self.size(columns), scale, steps, offsets)

    def fit(self, weight: Tensor, limits: Limits, importance: Tensor | None = None) -> WeightGrid:
        """The grid of least squared error; the step of a group is its range, so that no range method is asked."""
        return self.grid(*weight_fit.fit(weight, self, importance), weight.shape[1])

    def whole(self, steps: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest steps and offsets (out, groups) that a grid can have, as floats."""
        steps = weight_fit.whole_steps(steps, self)
        if not self.asymmetric:
            return steps, (-steps * self.top / 2).floor()
        return steps, offsets.round().clamp(-LARGEST).minimum(LARGEST - steps * self.top)

    def bytes(self, rows: int, columns: int) -> int:
        of_a_group = 2 if self.asymmetric else 1
        return packed_bytes(rows * columns, self.bits) + rows * (4 + of_a_group * self.count(columns))

    def empty(self, shape: torch.Size) -> dict[str, Tensor]:
        rows, columns = shape[0], shape[1:].numel()
        of_groups = rows, self.count(columns)
        return {
            "codes": torch.zeros(packed_bytes(rows * columns, self.bits), dtype=torch.uint8),
            "steps": torch.ones(of_groups, dtype=torch.uint8),
            **({"offsets": torch.zeros(of_groups, dtype=torch.int8)} if self.asymmetric else {}),
            "scales": torch.ones(rows),
        }

    def store(self, weight: QTensor, shape: torch.Size) -> dict[str, Tensor]:
        grid = weight.grid
        return {
            "codes": pack(contract(weight.codes, grid), self.bits),
            "steps": grid.steps,
            **({"offsets": grid.offsets} if self.asymmetric else {}),
            "scales": grid.scale,
        }

    def load(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> QTensor:
        rows, columns = shape[0], shape[1:].numel()
        steps, offsets = tensors["steps"], self._offsets(tensors)
        codes = unpack(tensors["codes"], self.bits, rows * columns).view(rows, columns)
        expanded = expand(codes, steps, offsets, self.size(columns))
        return self.grid(tensors["scales"], steps, offsets, columns).hold(expanded)

    def take(self, tensors: Mapping[str, Tensor], shape: torch.Size, rows: Tensor) -> QTensor:
        columns = shape[1:].numel()
        part = {name: each[rows] for name, each in tensors.items() if name != "codes"}
        part["codes"] = packed_rows(tensors["codes"], self.bits, shape[0], columns, rows)
        return self.load(part, torch.Size([len(rows), *shape[1:]]))

    def problem(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> str | None:
        """Steps and offsets must not leave the int8 range that codes expand to."""
        steps, low = tensors["steps"].to(torch.int16), self._offsets(tensors).to(torch.int16)
        high = low + steps * self.top
        outside = (steps < 1).any() or (low < -LARGEST).any() or (high > LARGEST).any()
        return "its weights do not expand to int8" if bool(outside) else None

    def _offsets(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors["offsets"] if self.asymmetric else symmetric_offsets(tensors["steps"], self)


def of(bits: int, group: int | None, asymmetric: bool, sparsity: str | None = None) -> Packed | None:
    """The format with these settings; a group has at least one weight."""
    if bits not in BITS or sparsity is not None:
        return None
    if group is not None and group < 1:
        raise ValueError(f"weight_group is {group}; write 32, 64 or 128, or delete it for one group per row")
    return Packed(bits, group, asymmetric)


def parse(text: str) -> Packed | None:
    """The format in a text that `str` wrote; None for another format's text."""
    found = re.fullmatch(r"w([2-4])(?:g([1-9]\d{0,4}))?(z?)", text)
    return Packed(int(found[1]), int(found[2]) if found[2] else None, bool(found[3])) if found else None


def symmetric_offsets(steps: Tensor, groups: Groups) -> Tensor:
    """int8 offsets (out, groups) of groups without offsets of their own, from their steps."""
    return (-(steps.to(torch.int16) * groups.top) // 2).to(torch.int8)


def expand(codes: Tensor, steps: Tensor, offsets: Tensor, size: int) -> Tensor:
    """int8 codes (out, n) for the engine from uint8 codes (out, n), steps and offsets (out, groups).

    int8 arithmetic wraps around, and the result of both operations is in its range.
    """
    columns = codes.shape[1]
    step, offset = (x.view(torch.int8).repeat_interleave(size, 1)[:, :columns] for x in (steps, offsets))
    return codes.view(torch.int8).mul(step).add_(offset)


def contract(codes: Tensor, grid: WeightGrid) -> Tensor:
    """The uint8 codes (out, n) that `expand` turns into the int8 codes (out, n)."""
    points = grid.of()
    return ((codes - points.offset) / points.step).round_().to(torch.uint8)
