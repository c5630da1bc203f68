"""oneDNN's int8 operators as torch exposes them (torch.ops.onednn, torch 2.13).

u8 activations with a zero point times s8 weights with one scale for each output channel, accumulated exactly in int32;
then (optionally) bias, GELU and requantization to u8 in the same kernel. A convolution is a matrix product over
overlapping windows: in channels-last memory the window of output t starts at t * stride * channels, so `as_strided`
describes the matrix without copying it. A grouped convolution is one such product for each group. (The convolution
operators, onednn.qconv1d_pointwise and qconv2d_pointwise, are slower and give wrong sums for 16 channels a group.)

oneDNN compiles a kernel for every number of rows it meets, which for 2 s of speech takes half as long as the answer.
So rows come in round numbers (`round_rows`), a few dozen in all: what lies in the rows too many is not looked at.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....quantization.numerics.integer_grid import quantize, unsigned_grid
from .stopwatch import timed

GridPoint = tuple[float, int]  # scale and zero point

NOTICES = {  # by `way`
    "halves": "this CPU has no VNNI, so its int8 kernels saturate: products are computed in halves, exact but slower",
    "float": "this build of torch has no int8 kernels for this CPU: integer sites are simulated in float32, slowly",
}


class Prepacked(NamedTuple):
    """A weight as the kernel takes it."""

    codes: Tensor  # opaque; int8 (out, n) where there is no kernel
    scales: Tensor  # float32 (out,)
    zeros: Tensor  # int64 (out,): the zero points of a symmetric weight
    bias: Tensor  # float32 (out,)


def prepack(codes: Tensor, scales: Tensor, bias: Tensor) -> Prepacked:
    """Weight codes int8 (out, n), scales and bias float32 (out,) in the layout the kernel wants."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    packed = codes.clone() if way() == "float" else torch.ops.onednn.qlinear_prepack(codes.contiguous(), None)
    return Prepacked(packed, scales, zeros, bias)


@timed("products")
def linear(
    x: Tensor,
    grid_point: GridPoint,
    weight: Prepacked,
    *,
    gelu: bool = False,
    requantize: GridPoint | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """uint8 (m, n) with its (scale, zero point) times a packed weight: `dtype` (m, out), float32 or bfloat16.

    With `requantize`, the (scale, zero point) of the reader, the result is uint8 instead.
    """
    if way() == "exact":
        return _kernel(x, grid_point, weight, gelu, requantize, dtype)
    result = _slow(x, grid_point, weight)
    result = F.gelu(result) if gelu else result
    return result.to(dtype) if requantize is None else quantize(result, *requantize, unsigned_grid(8))


@timed("products")
def linear_plus(x: Tensor, grid_point: GridPoint, weight: Prepacked, other: Tensor) -> Tensor:
    """As `linear` in float32, plus `other` (m, out) float32, added in the kernel."""
    return _kernel_plus(x, grid_point, weight, other) if way() == "exact" else _slow(x, grid_point, weight) + other


def _kernel(
    x: Tensor, grid_point: GridPoint, weight: Prepacked, gelu: bool, requantize: GridPoint | None, dtype: torch.dtype
) -> Tensor:
    scale, zero_point = requantize or (1.0, 0)
    result: Tensor = torch.ops.onednn.qlinear_pointwise.default(
        x,
        *grid_point,
        *weight[:3],
        weight.bias,
        scale,
        zero_point,
        dtype if requantize is None else torch.uint8,
        "gelu" if gelu else "none",
        [],
        "none",
    )
    return result


def _kernel_plus(x: Tensor, grid_point: GridPoint, weight: Prepacked, other: Tensor) -> Tensor:
    result: Tensor = torch.ops.onednn.qlinear_pointwise.binary(
        x,
        *grid_point,
        *weight[:3],
        other,
        weight.bias,
        1.0,
        0,
        torch.float32,
        1.0,
        0,
        "add",
        1.0,
        "none",
        [],
        "none",
    )
    return result


def _slow(x: Tensor, grid_point: GridPoint, weight: Prepacked) -> Tensor:
    """The product in float32 on a CPU whose kernels saturate, or that has none.

    Pairs of products saturate at 2^15, and those of 7-bit codes stay below: 2 * 128 * 127. So 8-bit codes are taken as
    the sum of two halves.
    """
    scale, zero_point = grid_point
    if way() == "float":
        return (x.float() - zero_point) @ weight.codes.float().T * (scale * weight.scales) + weight.bias
    half = x >> 1
    first = _kernel(half, grid_point, weight, False, None, torch.float32)
    return _kernel_plus(x - half, (scale, 0), weight._replace(bias=torch.zeros_like(weight.bias)), first)


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Windows of a convolution over channels-last (T, C) as rows: a view (frames, kernel * C) of the same memory."""
    frames = (x.shape[0] - kernel) // stride + 1
    return x.as_strided((frames, kernel * x.shape[1]), (stride * x.shape[1], 1), x.storage_offset())


def round_rows(n: int) -> int:
    """The number of rows, at least n, that a matrix of n rows is given: 16 different ones between n and 2 n."""
    step = 1 << max(0, n.bit_length() - 5)
    return -(-n // step) * step


def rounded(x: Tensor) -> Tensor:
    """Rows x (n, C), dense, as (round_rows(n), C): a longer view where its memory goes on far enough, else a copy."""
    rows, (n, channels) = round_rows(len(x)), x.shape
    if n == rows:
        return x
    if (x.storage_offset() + rows * channels) * x.element_size() <= x.untyped_storage().nbytes():
        return x.as_strided((rows, channels), (channels, 1), x.storage_offset())
    return F.pad(x, (0, 0, 0, rows - n))


@functools.cache
def way() -> str:
    """How products are computed on this CPU, found by asking the kernel for the largest sum.

    "exact": the kernel as it is. "halves": it adds pairs of u8 x s8 products in 16 bits, as x86 without VNNI does
    (oneDNN's guide to int8), and 255 * 127 * 2 saturates. "float": there is no kernel.
    """
    terms = 64
    x = torch.full((1, terms), 255, dtype=torch.uint8)
    try:
        codes = torch.ops.onednn.qlinear_prepack(torch.full((1, terms), 127, dtype=torch.int8), None)
        weight = Prepacked(codes, torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
        largest = float(_kernel(x, (1.0, 0), weight, False, None, torch.float32))
    except (RuntimeError, AttributeError):  # NotImplementedError is a RuntimeError
        return "float"
    return "exact" if largest == 255 * 127 * terms else "halves"
