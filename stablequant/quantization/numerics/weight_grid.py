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
from .activation_grid import QTensor

LARGEST = 127  # magnitude of an int8 code that every kernel takes
PACKED_BITS = 4  # formats up to here are packed densely; wider codes are stored as int8
GROUP_SIZES = (32, 64, 128)
REACHES = (1.0, 0.8)  # of the row's largest weight, that the int8 codes may reach
CHUNK = 1 << 18  # weights that are searched together: their sums stay in cache
SHARES = tuple(1.0 - 0.05 * n for n in range(14))  # of the range of a group, that its points may cover


@dataclass(frozen=True)
class WeightFormat:
    """Bits and groups of a weight; written w8, w4g64, w2g32z (z: with offsets, asymmetric)."""

    bits: int
    group: int | None = None  # weights in a group, None: the whole row
    asymmetric: bool = False

    @property
    def packed(self) -> bool:
        return self.bits <= PACKED_BITS

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - (1 if self.asymmetric or self.bits < PACKED_BITS else 2)

    def size(self, columns: int) -> int:
        """Weights in a group of a row that is `columns` long."""
        return columns if self.group is None else min(self.group, columns)

    def groups(self, columns: int) -> int:
        return -(-columns // self.size(columns))

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes on disk of the codes and all scales of a weight (rows, columns)."""
        if not self.packed:
            return rows * columns + 4 * rows
        of_a_group = 2 if self.asymmetric else 1
        return packed_bytes(rows * columns, self.bits) + rows * (4 + of_a_group * self.groups(columns))

    def __str__(self) -> str:
        return f"w{self.bits}" + (f"g{self.group}" if self.group else "") + ("z" if self.asymmetric else "")


def parse_format(text: str) -> WeightFormat:
    """The format that `str` wrote; InputError for anything else."""
    found = re.fullmatch(r"w([2-8])(?:g([1-9]\d{0,4}))?(z?)", text)
    if not found or (int(found[1]) > PACKED_BITS and (found[2] or found[3])):
        raise InputError(f"weight format {text!r} is not of the form w8, w4g64 or w2g32z")
    return WeightFormat(int(found[1]), int(found[2]) if found[2] else None, bool(found[3]))


@dataclass(frozen=True)
class Lattice:
    """Where the weights (out, n) of a site may lie; offset + step * top is within int8."""

    format: WeightFormat
    group: Tensor  # int64 (n,): of each column
    scale: Tensor  # float32 (out,)
    steps: Tensor  # uint8 (out, groups), 1 and more
    offsets: Tensor  # int8 (out, groups)

    def of(self) -> Points:
        """The points of every column."""
        step, offset = (each[:, self.group].float() for each in (self.steps, self.offsets))
        return Points(self.scale[:, None], step, offset, self.format.top)

    def nearest(self, weight: Tensor) -> Tensor:
        """int8 codes (out, n) of the points nearest to a weight (out, n)."""
        return self.of().nearest(weight)

    def hold(self, codes: Tensor) -> QTensor:
        """The weight with these int8 codes (out, n), all of them on the lattice."""
        return QTensor(codes, self.scale, self if self.format.packed else None)

    def rows(self, index: Tensor | slice) -> Lattice:
        """The lattice of some rows."""
        return replace(self, scale=self.scale[index], steps=self.steps[index], offsets=self.offsets[index])

    def columns(self, index: slice | Tensor) -> Lattice:
        """The lattice of some columns, in this order."""
        return replace(self, group=self.group[index])


@dataclass(frozen=True)
class Points:
    """A lattice spread out over columns: scale (out, 1), step and offset (out, k), all float32."""

    scale: Tensor
    step: Tensor
    offset: Tensor
    top: int

    def nearest(self, weight: Tensor) -> Tensor:
        """int8 codes of the points nearest to a weight (out, k)."""
        steps = torch.round((weight / self.scale - self.offset) / self.step).clamp_(0, self.top)
        return steps.mul_(self.step).add_(self.offset).to(torch.int8)

    def by_columns(self) -> Points:
        """The same points (k, out), with a scale (out,): what one column needs lies together."""
        return Points(self.scale[:, 0], self.step.T.contiguous(), self.offset.T.contiguous(), self.top)


@dataclass(frozen=True)
class Dense:
    """A low-bit weight in no more memory than it has bytes on disk."""

    packed: Tensor  # uint8
    lattice: Lattice

    def expand(self) -> QTensor:
        """The weight with int8 codes."""
        rows, columns = len(self.lattice.scale), len(self.lattice.group)
        format = self.lattice.format
        codes = unpack(self.packed, format.bits, rows * columns).view(rows, columns)
        steps, offsets = self.lattice.steps, self.lattice.offsets.view(torch.uint8)
        return self.lattice.hold(expand(codes, steps, offsets, format.size(columns)))


def dense(weight: QTensor) -> Dense:
    """A weight of 4 bits or fewer, packed as on disk."""
    assert weight.lattice is not None
    return Dense(pack(contract(weight.codes, weight.lattice), weight.lattice.format.bits), weight.lattice)


def joined(lattices: Sequence[Lattice]) -> Lattice:
    """Lattices of rows that follow each other as one."""
    scale, steps, offsets = (torch.cat([getattr(x, name) for x in lattices]) for name in ("scale", "steps", "offsets"))
    return replace(lattices[0], scale=scale, steps=steps, offsets=offsets)


def symmetric_offsets(steps: Tensor, format: WeightFormat) -> Tensor:
    """int8 offsets (out, groups) of a format without offsets of its own, from its steps."""
    return (-(steps.to(torch.int16) * format.top) // 2).to(torch.int8)


def channel_lattice(scale: Tensor, bits: int, columns: int) -> Lattice:
    """The symmetric grid of grid.py with one scale (out,) for each row."""
    half = (1 << (bits - 1)) - 1
    ones = torch.ones(len(scale), 1, dtype=torch.uint8)
    group = torch.zeros(columns, dtype=torch.int64)
    return Lattice(WeightFormat(bits), group, scale, ones, torch.full_like(ones, 0).to(torch.int8) - half)


def fit(weight: Tensor, format: WeightFormat, importance: Tensor | None = None) -> Lattice:
    """The lattice of a packed format on which a weight (out, n) has the least squared error.

    `importance` (n,) weighs the columns: the second moments of the inputs, which make it the error of the output if
    inputs were uncorrelated. Searched are the clip of each group (SHARES), which its step is, and that of the row.
    """
    columns = weight.shape[1]
    power = torch.ones(columns) if importance is None else importance / importance.mean().clamp_min(1e-30)
    found = [_fit(rows, power, format) for rows in weight.float().split(max(1, CHUNK // columns))]
    scale, steps, offsets = (torch.cat(each) for each in zip(*found, strict=True))
    group = torch.arange(columns) // format.size(columns)
    return Lattice(format, group, scale, steps.to(torch.uint8), offsets.to(torch.int8))


def _fit(weight: Tensor, power: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (out,), steps and offsets (out, groups), all float32, for some rows."""
    values, weights = _grouped(weight, format), _grouped(power[None], format)
    largest = weight.abs().amax(1)
    best: tuple[Tensor, ...] | None = None
    for reach in REACHES:
        scale = torch.where(largest > 0, largest * (reach / LARGEST), torch.ones_like(largest))
        found = (scale, *_search(values / scale[:, None, None], weights, format))
        error = found[3].sum(1) * scale.square()
        best = (*found[:3], error) if best is None else _better(best, (*found[:3], error))
    assert best is not None
    return best[0], best[1], best[2]


def _better(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Row by row the fit with the smaller error, the last of each tuple (out,)."""
    b_wins = b[-1] < a[-1]
    return tuple(torch.where(b_wins if x.ndim == 1 else b_wins[:, None], y, x) for x, y in zip(a, b, strict=True))


def _search(values: Tensor, weights: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor, Tensor]:
    """Steps, offsets and errors (out, groups) for values (out, groups, size) in units of the scale."""
    low, high = values.amin(-1), values.amax(-1)
    if not format.asymmetric:
        high = torch.maximum(-low, high)
        low = -high
    steps = torch.ones_like(low)
    offsets, errors = torch.zeros_like(steps), torch.full_like(steps, float("inf"))
    for share in SHARES:
        step = _whole_steps(share * (high - low) / format.top, format)
        offset, error = _offset_and_error(values, weights, step, (low + high) / 2, format)
        wins = error < errors
        for best, tried in ((steps, step), (offsets, offset), (errors, error)):
            best.copy_(torch.where(wins, tried, best))
    return steps, offsets, errors


def _whole_steps(steps: Tensor, format: WeightFormat) -> Tensor:
    """The nearest steps that fit in int8; even ones where the points lie at odd half steps."""
    stride = 2 if format.top % 2 and not format.asymmetric else 1
    return (steps / stride).round_().clamp_(1, 2 * LARGEST // format.top // stride).mul_(stride)


def _offset_and_error(
    values: Tensor, weights: Tensor, step: Tensor, middle: Tensor, format: WeightFormat
) -> tuple[Tensor, Tensor]:
    """For the steps of groups (out, groups) the offsets and squared errors; `middle` is where the values lie."""
    span = step * format.top
    if not format.asymmetric:
        offset = -(span / 2).floor()
        return offset, _error(values, weights, step, offset, format.top)
    offset = (middle - span / 2).round_().clamp_(-LARGEST).minimum(LARGEST - span)
    codes = ((values - offset[..., None]) / step[..., None]).round_().clamp_(0, format.top)
    left = codes.mul_(-step[..., None]).add_(values).mul_(weights)  # the best offset for these codes
    offset = (left.sum(-1) / weights.sum(-1).clamp_min(1e-30)).round_().clamp_(-LARGEST).minimum(LARGEST - span)
    return offset, _error(values, weights, step, offset, format.top)


def _error(values: Tensor, weights: Tensor, step: Tensor, offset: Tensor, top: int) -> Tensor:
    step, offset = step[..., None], offset[..., None]
    codes = ((values - offset) / step).round_().clamp_(0, top)
    return codes.mul_(step).add_(offset).sub_(values).square_().mul_(weights).sum(-1)


def _grouped(x: Tensor, format: WeightFormat) -> Tensor:
    """(out, n) as (out, groups, size); what is missing of the last group is filled with its last column."""
    columns = x.shape[1]
    size, groups = format.size(columns), format.groups(columns)
    index = torch.arange(groups * size).clamp_max(columns - 1)
    return x[:, index].view(len(x), groups, size).float()


def planes(bits: int) -> tuple[int, ...]:
    """A code of 4, 3 or 2 bits is stored as parts of these widths, each of which fills bytes evenly."""
    return {4: (4,), 3: (2, 1), 2: (2,)}[bits]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` densely packed codes."""
    return sum(-(-count // (8 // width)) for width in planes(bits))


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes of any shape, below 2^bits, as dense bytes (packed_bytes,): the low plane first."""
    flat, parts, shift = codes.flatten(), [], 0
    for width in planes(bits):
        in_a_byte = 8 // width
        part = (flat >> shift) & ((1 << width) - 1)
        part = torch.nn.functional.pad(part, (0, -len(part) % in_a_byte)).view(-1, in_a_byte)
        parts.append(sum(part[:, place] << (width * place) for place in range(in_a_byte)))
        shift += width
    return torch.cat(parts)  # type: ignore[arg-type]


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` uint8 codes that `pack` made bytes of."""
    codes = torch.zeros(count, dtype=torch.uint8)
    start, shift = 0, 0
    for width in planes(bits):
        in_a_byte = 8 // width
        part = packed[start : start + -(-count // in_a_byte)]
        places = [(part >> (width * place)) & ((1 << width) - 1) for place in range(in_a_byte)]
        codes |= torch.stack(places, 1).flatten()[:count] << shift
        start, shift = start + len(part), shift + width
    return codes


def expand(codes: Tensor, steps: Tensor, offsets: Tensor, size: int) -> Tensor:
    """int8 codes (out, n) for the engine from uint8 codes (out, n), steps and offsets (out, groups).

    int8 arithmetic wraps, and what is left after both operations is in its range.
    """
    columns = codes.shape[1]
    step, offset = (x.view(torch.int8).repeat_interleave(size, 1)[:, :columns] for x in (steps, offsets))
    return codes.view(torch.int8).mul(step).add_(offset)


def contract(codes: Tensor, lattice: Lattice) -> Tensor:
    """The uint8 codes (out, n) that `expand` makes the int8 codes (out, n) of."""
    points = lattice.of()
    return ((codes - points.offset) / points.step).round_().to(torch.uint8)
