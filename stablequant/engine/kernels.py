"""oneDNN's int8 operators as torch exposes them (torch.ops.onednn, torch 2.13).

u8 activations with a zero point times s8 weights with one scale for each output channel, accumulated exactly in int32;
then (optionally) bias, GELU and requantization to u8 in the same kernel. A convolution is a matrix product over
overlapping windows: in channels-last memory the window of output t starts at t * stride * channels, so `as_strided`
describes the matrix without copying it. A grouped convolution is one such product for each group. (The convolution
operators, onednn.qconv1d_pointwise and qconv2d_pointwise, are slower and give wrong sums for 16 channels a group.)
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def pack_linear(codes: Tensor) -> Tensor:
    """Weight codes int8 (out, n) in the layout the kernel wants."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(codes.contiguous(), None)
    return packed


def linear(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor,
    *,
    gelu: bool = False,
    requantize: tuple[float, int] | None = None,
) -> Tensor:
    """uint8 (m, n) times packed (out, n): float32 (m, out), or uint8 with the `requantize` (scale, zero point)."""
    scale, zero_point = requantize or (1.0, 0)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x,
        x_scale,
        x_zero_point,
        packed,
        scales,
        _zeros(len(scales)),
        bias,
        scale,
        zero_point,
        torch.float32 if requantize is None else torch.uint8,
        "gelu" if gelu else "none",
        [],
        "none",
    )
    return result


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Windows of a convolution over channels-last (T, C) as rows: a view (frames, kernel * C) of the same memory."""
    frames = (x.shape[0] - kernel) // stride + 1
    return x.as_strided((frames, kernel * x.shape[1]), (stride * x.shape[1], 1), x.storage_offset())


@functools.cache
def are_exact() -> bool:
    """Whether the kernel adds u8 x s8 products exactly on this CPU, found by asking it for the largest sum.

    x86 without VNNI adds pairs of products in 16 bits, where 255 * 127 * 2 saturates (oneDNN's guide to int8).
    """
    terms = 64
    x = torch.full((1, terms), 255, dtype=torch.uint8)
    packed = pack_linear(torch.full((1, terms), 127, dtype=torch.int8))
    result = linear(x, 1.0, 0, packed, torch.ones(1), torch.zeros(1))
    return float(result) == 255 * 127 * terms


def _zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)
