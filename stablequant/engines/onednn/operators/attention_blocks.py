"""Attention in blocks of some heads and queries that stay in cache: scores, powers of two of them, product with v.

The powers are not divided by their sums: the result is, which is smaller (softmax(x) v = (2^y v) / sum(2^y) with
y = x log2(e)). That takes two passes less over the scores than a softmax. Where a sum leaves the range in which
nothing is lost, for scores beyond +-69 or so, the block is computed anew with a softmax.

Scores and powers are in the format of q, k and v, sums of products in float32. Short utterances are one block of all
heads, long ones some hundred queries of one head. Each utterance is computed by itself, so its result does not depend
on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

SCORES = (
    9 << 17
)  # numbers of a block (heads x queries x keys) for each thread: 2.4 MB of bfloat16, two for 1500 frames
MOST_THREADS = 8  # for which there is more

LOG2_E = math.log2(math.e)
SAFE_SUMS = 2.0**-100, 2.0**100  # of powers of two, float32 and bfloat16 end at 2^-126 and 2^128

# Writes log2(e) times what is added to the scores of some heads and queries: (utterance, heads, queries, scores).
Add = Callable[[int, slice, slice, Tensor], None]


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, add: Add | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + what is added) v of q (B, heads, Tq, d), k and v (B, heads, Tk, d): (B, Tq, C)."""
    batch, heads, queries, width = q.shape
    several, rows = _block_sizes(heads, queries, k.shape[2])
    result = q.new_empty((batch, queries, heads, width))
    buffer = q.new_empty(several * rows * k.shape[2])
    for number in range(batch):
        keys, values = k[number].contiguous().transpose(1, 2), v[number].contiguous()  # (heads, d, Tk), (heads, Tk, d)
        for head in range(0, heads, several):
            some = slice(head, head + several)
            for start in range(0, queries, rows):
                part = slice(start, start + rows)
                block = q[number, some, part], keys[some], values[some]
                shape = (*block[0].shape[:2], keys.shape[2])
                fill = None if add is None else partial(add, number, some, part)
                out = result[number, part, some].transpose(0, 1)
                _block(*block, buffer[: math.prod(shape)].view(shape), fill, out)
    return result.flatten(2)


def _block(
    q: Tensor, k: Tensor, v: Tensor, scores: Tensor, fill: Callable[[Tensor], None] | None, out: Tensor
) -> None:
    """Attention of q (h, n, d) to k (h, d, Tk), v (h, Tk, d), written to out (h, n, d); uses `scores` (h, n, Tk)."""
    powers = _scores(q, k, scores, fill).exp2_()
    sums = powers.sum(-1, keepdim=True)
    least, most = (float(each) for each in sums.aminmax())
    if least >= SAFE_SUMS[0] and most <= SAFE_SUMS[1]:
        torch.div(torch.bmm(powers, v), sums, out=out)
        return
    scores = _scores(q, k, scores, fill).mul_(1.0 / LOG2_E)
    out.copy_(torch.bmm(torch.softmax(scores, -1, out=scores), v))


def _scores(q: Tensor, k: Tensor, out: Tensor, fill: Callable[[Tensor], None] | None) -> Tensor:
    """The scores times log2(e)."""
    if fill is not None:
        fill(out)
    return out.baddbmm_(q, k, beta=0.0 if fill is None else 1.0, alpha=LOG2_E * q.shape[2] ** -0.5)


def _block_sizes(heads: int, queries: int, keys: int) -> tuple[int, int]:
    """Heads and queries of a block: all queries of as many heads as there is room for, else a part of one head's."""
    room = SCORES * min(MOST_THREADS, torch.get_num_threads())
    several = _equal_parts(heads, room // max(1, queries * keys))
    return several, _equal_parts(queries, room // max(1, several * keys))


def _equal_parts(whole: int, most: int) -> int:
    """The size of the parts, each at most `most`, or else 1, that `whole` is cut into."""
    parts = -(-whole // max(1, min(whole, most)))
    return -(-whole // parts)


def masked(mask: Tensor, scores_shape: tuple[int, int, int, int]) -> Add:
    """Adds a mask of numbers, as scaled_dot_product_attention takes it."""
    finite = (mask * LOG2_E).clamp_min_(torch.finfo(mask.dtype).min)  # as some write what is hidden
    full = torch.where(mask.isinf(), mask, finite).broadcast_to(scores_shape)

    def add(number: int, heads: slice, queries: slice, scores: Tensor) -> None:
        scores.copy_(full[number, heads, queries])

    return add
