"""softmax(q k' / sqrt(d) + bias) v for the heads of whole utterances, in the fastest form that is exact enough.

The products run in bfloat16 where the CPU multiplies it natively (AMX, AVX512-BF16), with sums and softmax in
float32. The error, 0.2 to 0.5 % of the result, is below that of the 8-bit grid that reads it. Other CPUs keep float32.
Integer products do not pay: both operands would be packed anew for every head and utterance.

There are two forms (scripts/LOG.md has their times):

- "fused", torch's kernel, which never stores the scores: fastest with AMX, and in float32;
- "blocks" (attention_blocks.py): fastest with AVX512-BF16 alone, where torch's kernel multiplies bfloat16 no faster
  than float32, if there are at least 64 keys.

A table by instruction set decides, not a measurement in the process, so that the same input gives the same output in
every process. STABLEQUANT_ATTENTION=fused or blocks in the environment decides otherwise.

WavLM adds a bias to the scores that depends on head and distance, times a gate of head and query. A bias by distance
is a row of 2 T - 1 numbers for each head; only a few heads at a time are ever spread out into matrices.
"""

from __future__ import annotations

import functools
import itertools
import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from ....foundation.errors import InputError
from .attention_blocks import LOG2_E, attend_in_blocks, masked
from .stopwatch import timed

VARIABLE = "STABLEQUANT_ATTENTION"
FORMS = ("fused", "blocks")
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
WITHOUT_AMX = {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"}
MANY = 64  # keys: for fewer, torch's kernel is faster everywhere, and rounds less, which shows in few keys
BIASES = 3 << 20  # numbers of a block of biases (heads x queries x frames), 12 MB: whole heads where they fit


@functools.cache
def number_format() -> torch.dtype:
    """The format that q, k and v are best given in on this CPU."""
    return torch.bfloat16 if _multiplies_bfloat16() else torch.float32


@functools.cache
def form() -> str:
    """The form of attention in this process: what the environment says, else what is fastest on this CPU."""
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return "blocks" if _multiplies_bfloat16() and not _has_amx() else "fused"
    if chosen not in FORMS:
        raise InputError(f"the environment variable {VARIABLE} is {chosen!r}; set it to {' or '.join(FORMS)}")
    return chosen


def _multiplies_bfloat16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16")) and _held_to() not in WITHOUT_BFLOAT16


def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and _held_to() not in WITHOUT_AMX


def _held_to() -> str:
    """The newest instructions that oneDNN may use, as the user named them; torch reports what the CPU has."""
    return next((os.environ[name].upper() for name in ISA_VARIABLES if name in os.environ), "")


@timed("attention")
def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of q (B, Tq, C) to k and v (B, Tk, C) -> (B, Tq, C); `mask` as scaled_dot_product_attention takes it.

    Where a mask hides all keys from a query, its result is 0.
    """
    q, k, v = (_by_head(each, heads) for each in (q, k, v))
    if mask is not None:
        mask = mask.to(q.dtype) if mask.dtype != torch.bool else _numbers(mask, q.dtype)
    if not _in_blocks(k):
        return _joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    if mask is None:
        return attend_in_blocks(q, k, v)
    result = attend_in_blocks(q, k, v, masked(mask, (*q.shape[:3], k.shape[2])))
    unseen = (mask == -math.inf).all(-1, keepdim=True)
    return _joined(_by_head(result, heads).masked_fill(unseen, 0.0)) if bool(unseen.any()) else result


def _numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a mask is True and minus infinity where it is not, as small as the mask is in memory."""
    for axis in range(mask.ndim):
        if mask.stride(axis) == 0:  # expanded
            mask = mask.narrow(axis, 0, 1)
    return mask.new_zeros(mask.shape, dtype=dtype).masked_fill_(mask.logical_not(), -math.inf)


@timed("attention")
def attend_relative(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, keep: Tensor | None = None) -> Tensor:
    """Attention of q, k, v (B, T, C) with the bias gate (B, heads, T) * bias (heads, 2 T - 1) -> (B, T, C).

    `bias` goes from distance 1 - T (key before query) to T - 1; `keep` (B, T), bool, says which keys there are.
    """
    heads, frames = gate.shape[1:]
    q, k, v = (_by_head(each, heads) for each in (q, k, v))
    # Query i reads bias[j - i + T - 1] at key j: with the queries in reverse order, row r starts at bias[r].
    q, gate, windows = q.flip(2), gate.flip(2)[..., None], bias.unfold(1, frames, 1)
    result = (_relative_in_blocks if _in_blocks(k) else _relative)(q, k, v, gate, windows, keep)
    return result.flip(1)


def _relative(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, windows: Tensor, keep: Tensor | None) -> Tensor:
    """q, k, v (B, heads, T, d), gate (B, heads, T, 1), windows (heads, T, T) -> (B, T, C)."""
    heads, frames = windows.shape[:2]
    result = torch.empty_like(q)
    several, step = max(1, BIASES // frames**2), min(frames, max(1, BIASES // frames))
    for head, start in itertools.product(range(0, heads, several), range(0, frames, step)):
        some, rows = slice(head, head + several), slice(start, start + step)
        block = windows[some, rows] * gate[:, some, rows]
        if keep is not None:
            block = block.masked_fill(~keep[:, None, None, :], -math.inf)
        part = q[:, some, rows], k[:, some], v[:, some]
        result[:, some, rows] = F.scaled_dot_product_attention(*part, attn_mask=block)
    return _joined(result)


def _relative_in_blocks(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, windows: Tensor, keep: Tensor | None) -> Tensor:
    """The same in the other form."""
    gate = gate * LOG2_E

    def add(number: int, heads: slice, queries: slice, scores: Tensor) -> None:
        torch.mul(windows[heads, queries], gate[number, heads, queries], out=scores)
        if keep is not None:
            scores.masked_fill_(~keep[number], -math.inf)

    result = attend_in_blocks(q, k, v, add)
    return result if keep is None else result.masked_fill_(~keep.any(1)[:, None, None], 0.0)


def _in_blocks(k: Tensor) -> bool:
    return form() == "blocks" and k.shape[2] >= MANY


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
