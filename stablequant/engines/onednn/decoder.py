"""A decoder on integer kernels, step by step: a few rows a step, so what it costs is reading the weights once.

q, k and v are one product; keys and values of the encoder's states are computed once, those of the steps so far are
kept in place. What transformers does around a step (masks, caches, output objects) is not needed here, and would take
longer than the products of a small model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .operators import kernels
from .operators.modules import IntegerLinear
from .operators.stopwatch import timed
from .wav2vec2_encoder import feed_forward, norm
from .whisper_encoder import is_seq2seq, unknown_layer

ROOM = 64  # steps that are made room for at a time


def decoder_of(model: nn.Module) -> Callable[[Tensor], FusedDecoder] | None:
    """Starts the decoder of a model on encoder states (pieces, steps, C); None if its structure is another."""
    if not is_seq2seq(model) or unknown_decoder(model):
        return None
    return lambda states: FusedDecoder(model, states)


def unknown_decoder(model: Any) -> str | None:
    """Why a decoder runs module by module; None if it can be fused."""
    if not isinstance(getattr(model, "proj_out", None), IntegerLinear):
        return "the output projection is no integer module"
    found = (unknown_layer(each, ("self_attn", "encoder_attn")) for each in model.base_model.decoder.layers)
    return next((reason for reason in found if reason), None)


class FusedDecoder:
    """The decoder of a model on the encoder's states (pieces, steps, C)."""

    def __init__(self, model: Any, states: Tensor) -> None:
        self._decoder, self._head = model.base_model.decoder, model.proj_out
        self._layers = [_Layer(each, states) for each in self._decoder.layers]
        self._piece, self._length = torch.arange(len(states)), 0  # of each row

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Logits (rows, symbols) of what follows ids (rows, n)."""
        rows, new = ids.shape
        positions = self._decoder.embed_positions.weight[self._length : self._length + new]
        x = (self._decoder.embed_tokens(ids) + positions).flatten(0, 1)
        for layer in self._layers:
            x = layer.step(x, rows, self._length)
        self._length += new
        last = norm(self._decoder.layer_norm, x.view(rows, new, -1)[:, -1])
        return kernels.linear(self._head.quantize_input(last), self._head.input.point, self._head.prepacked()[0])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order: as many for each piece that is left, which follow each other."""
        left = self._piece[rows].unique_consecutive()
        for layer in self._layers:
            layer.keep(rows, left)
        self._piece = torch.arange(len(left)).repeat_interleave(len(rows) // len(left))


class _Layer:
    """A layer with its keys and values: of the encoder's states, and of the steps so far."""

    def __init__(self, layer: Any, states: Tensor) -> None:
        self._layer, self._heads = layer, layer.self_attn.num_heads
        pieces, steps, channels = states.shape
        rows = kernels.rounded(states.reshape(-1, channels))
        crossed = layer.encoder_attn
        found = _projected((crossed.k_proj, crossed.v_proj), rows)
        k, v = (self._by_head(each[: pieces * steps], pieces).contiguous() for each in found)
        self._crossed = k, v
        self._past = k[:, :, :0], v[:, :, :0]

    def step(self, x: Tensor, count: int, length: int) -> Tensor:
        """Rows x (count * n, C) float32 of n steps in each of `count` rows, which follow `length` others."""
        own, crossed, layer = self._layer.self_attn, self._layer.encoder_attn, self._layer
        read = norm(layer.self_attn_layer_norm, x)
        q, k, v = (self._by_head(each, count) for each in _projected((own.q_proj, own.k_proj, own.v_proj), read))
        x = _added(own.out_proj, _attend(q, *self._remembered(k, v, length), causal=x.shape[0] > count), x)
        [q] = _projected((crossed.q_proj,), norm(layer.encoder_attn_layer_norm, x))
        x = _added(crossed.out_proj, _attend(self._by_head(q, len(self._crossed[0])), *self._crossed), x)
        return feed_forward(layer.fc1, layer.fc2, norm(layer.final_layer_norm, x), x)

    def keep(self, rows: Tensor, pieces: Tensor) -> None:
        """Go on with these rows, and these pieces."""
        if len(pieces) < len(self._crossed[0]):
            self._crossed = self._crossed[0][pieces], self._crossed[1][pieces]
        self._past = self._past[0][rows], self._past[1][rows]

    def _by_head(self, x: Tensor, pieces: int) -> Tensor:
        """Rows x (pieces * n, C) as (pieces, heads, n, C / heads)."""
        return x.view(pieces, x.shape[0] // pieces, self._heads, -1).transpose(1, 2)

    def _remembered(self, k: Tensor, v: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The keys and values of all steps, with those of the new ones stored behind the others."""
        end = length + k.shape[2]
        if end > self._past[0].shape[2]:
            more = -(-end // ROOM) * ROOM - self._past[0].shape[2]
            self._past = F.pad(self._past[0], (0, 0, 0, more)), F.pad(self._past[1], (0, 0, 0, more))
        for kept, new in zip(self._past, (k, v), strict=True):
            kept[:, :, length:end] = new
        keys, values = (each[:, :, :end] for each in self._past)
        return keys, values


@timed("products")
def _projected(parts: tuple[IntegerLinear, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Products of modules with rows x (n, C), float32: one product where they read one grid."""
    first, *others = parts
    if all(each.input == first.input for each in others):
        weight = first.joined(*others) if others else first.prepacked()[0]
        joined = kernels.linear(first.quantize_input(x), first.input.point, weight)
        return joined.split([len(each.scales) for each in parts], 1)
    return tuple(kernels.linear(each.quantize_input(x), each.input.point, each.prepacked()[0]) for each in parts)


@timed("attention")
def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k' / sqrt(d)) v of (pieces, heads, n, d), as rows (pieces * n, heads * d)."""
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if causal:
        new, every = scores.shape[2:]
        scores += torch.full((new, every), -torch.inf).triu(every - new + 1)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(q.shape[0] * q.shape[2], -1)


def _added(module: IntegerLinear, x: Tensor, residual: Tensor) -> Tensor:
    """The residual plus a module of rows x (n, C)."""
    return kernels.linear_plus(module.quantize_input(x), module.input.point, module.prepacked()[0], residual)
