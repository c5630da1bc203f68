"""softmax(q k' / sqrt(d) + bias) v for the heads of whole utterances, in the fastest form that is exact enough.

The products run in bfloat16 where the CPU multiplies it natively (AMX, AVX512-BF16), with sums and softmax in
float32: torch's fused kernel, which never holds a frames x frames matrix. Its error, 0.4 % of the result, is below
that of the 8-bit grid that reads it; it is three times faster than float32 at every length (scripts/LOG.md). Other
CPUs keep float32. Integer products do not pay: both operands would be packed anew for every head and utterance.

WavLM adds a bias to the scores that depends on head and distance, times a gate of head and query. A bias by distance
is a row of 2 T - 1 numbers for each head; only a few heads at a time are ever spread out into matrices.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .stopwatch import timed

BIASES = 3 << 20  # numbers of a block of biases (heads x queries x frames), 12 MB: whole heads where they fit


@functools.cache
def number_format() -> torch.dtype:
    """The format that q, k and v are best given in on this CPU."""
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


@timed("attention")
def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of q, k, v (B, T, C) -> (B, T, C); `mask` as scaled_dot_product_attention takes it."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    q, k, v = (_by_head(each, heads) for each in (q, k, v))
    return _joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


@timed("attention")
def attend_relative(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keep: Tensor | None = None) -> Tensor:
    """Attention of q, k, v (B, T, C) with the bias gate (B, heads, T) * bias (heads, 2 T - 1) -> (B, T, C).

    `bias` goes from distance 1 - T (key before query) to T - 1; `keep` (B, T), bool, says which keys there are.
    """
    heads, frames = gate.shape[1:]
    q, k, v = (_by_head(each, heads) for each in (q, k, v))
    # Query i reads bias[j - i + T - 1] at key j: with the queries in reverse order, row r starts at bias[r].
    windows = bias.unfold(1, frames, 1)
    q, gate = q.flip(2), gate.flip(2)[..., None]
    result = torch.empty_like(q)
    several, step = max(1, BIASES // frames**2), min(frames, max(1, BIASES // frames))
    for head, start in itertools.product(range(0, heads, several), range(0, frames, step)):
        some, rows = slice(head, head + several), slice(start, start + step)
        block = windows[some, rows] * gate[:, some, rows]
        if keep is not None:
            block = block.masked_fill(~keep[:, None, None, :], -math.inf)
        part = q[:, some, rows], k[:, some], v[:, some]
        result[:, some, rows] = F.scaled_dot_product_attention(*part, attn_mask=block)
    return _joined(result.flip(2))


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
