"""Codes of 4, 3 and 2 bits in dense bytes, and back."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """The `count` uint8 codes that `pack` packed."""
    codes = torch.zeros(count, dtype=torch.uint8)
    start, shift = 0, 0
    for width in planes(bits):
        in_a_byte = 8 // width
        part = packed[start : start + -(-count // in_a_byte)]
        places = [(part >> (width * place)) & ((1 << width) - 1) for place in range(in_a_byte)]
        codes |= torch.stack(places, 1).flatten()[:count] << shift
        start, shift = start + len(part), shift + width
    return codes


def packed_rows(packed: Tensor, bits: int, count: int, columns: int, rows: Tensor) -> Tensor:
    """The packed codes of some rows (int64) of a matrix (count, columns) whose codes are `packed`."""
    if any(columns % (8 // width) for width in planes(bits)):  # rows begin within bytes
        return pack(unpack(packed, bits, count * columns).view(count, columns)[rows], bits)
    parts, start = [], 0
    for width in planes(bits):
        size = columns * width // 8
        parts.append(packed[start : start + count * size].view(count, size)[rows].flatten())
        start += count * size
    return torch.cat(parts)
