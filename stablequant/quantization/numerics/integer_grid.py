"""The integer grids of activations and 8-bit weights.

Activations are on an unsigned grid of 2^b codes with a zero point, one scale for the tensor:

    code = clamp(floor(x / scale + zero_point + 1/2), 0, 2^b - 1)        x^ = scale (code - zero_point)

The range always contains 0, so that the zeros a convolution pads with are exact. A *mid-rise* grid has zero half-way
between two codes instead (a zero point of k - 1/2 in the same formulas): values smaller than half a step keep their
sign there, while the usual mid-tread grid makes them 0. Weights are on a signed symmetric grid of 2^b - 1 codes, one
scale for each output channel: code = clamp(round(w / scale)), w^ = scale code. An integer product is then exact in
int32, and its float value is scale_x scale_w sum((code_x - zero_point) code_w)
(Jacob et al. 2018, arXiv 1712.05877, eq. 7).

Both the simulation and the engine call `quantize`. Each of its steps is one correctly rounded float32 operation, so
the codes do not depend on chunk size, memory layout or number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SCALE = 2.0**-126  # its reciprocal is a float32
CHUNK = 1 << 18  # elements quantized at a time: 1 MiB of float32, which stays in a core's cache


@dataclass(frozen=True)
class Grid:
    """`bits` codes, symmetric around 0 (weights) or from 0 up with a zero point (activations)."""

    bits: int
    symmetric: bool

    @property
    def low(self) -> int:
        return -self.high if self.symmetric else 0

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1


def signed_grid(bits: int) -> Grid:
    return Grid(bits, symmetric=True)


def unsigned_grid(bits: int) -> Grid:
    return Grid(bits, symmetric=False)


def affine(low: float, high: float, grid: Grid) -> tuple[float, int]:
    """Scale and zero point of an activation grid that covers [low, high] and 0.

    The scale is rounded to float32, as it is stored. An empty range (a silent tensor) gets the scale 1, and so does
    one so narrow that 1 / scale is no float32.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(torch.tensor((high - low) / grid.high, dtype=torch.float32))
    if scale < SMALLEST_SCALE:
        return 1.0, 0
    return scale, max(0, min(grid.high, math.floor(-low / scale + 0.5)))


def quantize(
    x: Tensor, scale: float, zero_point: float, grid: Grid, out: Tensor | None = None, *, spend: bool = False
) -> Tensor:
    """uint8 codes of a float32 or bfloat16 tensor, of the same shape and memory order; in chunks that stay in cache.

    They are written to `out` if it is given. Codes have no gradient. With `spend`, a float32 x may be overwritten.
    """
    x = x.detach()
    if not (x.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(x)):
        x = x.contiguous()
    codes = torch.empty_like(x, dtype=torch.uint8) if out is None else out
    if x.numel() <= CHUNK or codes.stride() != x.stride():
        return codes.copy_(_whole(x, scale, zero_point, grid, spend))
    flat, flat_codes = _in_memory_order(x), _in_memory_order(codes)
    for start in range(0, flat.numel(), CHUNK):
        flat_codes[start : start + CHUNK].copy_(_whole(flat[start : start + CHUNK], scale, zero_point, grid, spend))
    return codes


def _whole(x: Tensor, scale: float, zero_point: float, grid: Grid, spend: bool) -> Tensor:
    """The codes as int16: torch converts float32 to int16 to uint8 in a third of the time of float32 to uint8."""
    return _steps(x, scale, zero_point, grid, spend).to(torch.int16)


def _steps(x: Tensor, scale: float, zero_point: float, grid: Grid, spend: bool) -> Tensor:
    """Floats whose integer part is the code.

    Adding 1/2 and cutting off is floor(x + 1/2), because the clamp leaves nothing below 0. (One fused multiply-add
    would be faster, but rounds otherwise at the end of a vector: codes would depend on chunks.)
    """
    own = spend or x.dtype != torch.float32  # then float() makes a copy, which may be overwritten
    steps = x.float().mul_(1.0 / scale) if own else x.mul(1.0 / scale)
    return steps.add_(zero_point + 0.5).clamp_(0.0, grid.high + 0.5)


def dequantize(codes: Tensor, scale: float, zero_point: float) -> Tensor:
    """float32 values of uint8 activation codes, same shape."""
    return codes.float().sub_(zero_point).mul_(scale)


def fake_quantize(x: Tensor, scale: float, zero_point: float, grid: Grid) -> Tensor:
    """The nearest points of the grid, still float32."""
    return dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)


def symmetric_scale(limit: Tensor, grid: Grid) -> Tensor:
    """float32 scale of a symmetric grid that reaches `limit` (any shape); 1 where the limit is 0."""
    scale = limit.float() / grid.high
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def quantize_weight(weight: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """int8 codes (out, n) of a float32 weight (out, n) with one scale for each row."""
    return torch.round(weight / scale[:, None]).clamp_(grid.low, grid.high).to(torch.int8)


def sqnr_db(signal: float, noise: float) -> float | None:
    """Signal to quantization noise in dB, to three digits, from the two powers; None where either is 0."""
    return round(10.0 * math.log10(signal / noise), 3) if signal > 0 and noise > 0 else None


def _in_memory_order(x: Tensor) -> Tensor:
    """A 1-d view of a dense tensor in the order of its memory, whatever its strides."""
    return x.as_strided((x.numel(),), (1,))
