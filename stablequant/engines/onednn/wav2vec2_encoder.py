"""The transformer encoder, fused layer by layer: one product for q, k and v, the feed-forward block in uint8.

A layer is recognised by its parts: attention with four integer projections, two layer norms and an integer
feed-forward block with GELU between. Norms come before or after the two blocks (`do_stable_layer_norm`); the
attention may have WavLM's gated relative position bias; a bottleneck adapter may follow. The layer's `forward` is
replaced, not the loop around it, so everything that transformers does between layers stays.

Rows are frames, of one utterance or of several (utterance_lengths.py): only attention and the positional convolution
need to know where an utterance ends.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import utterance_lengths
from .operators import attention_products, kernels
from .operators.modules import IntegerConv, IntegerLinear
from .operators.stopwatch import timed


@dataclass(frozen=True)
class LayerForm:
    """What a layer looks like."""

    pre_norm: bool
    relative: bool  # with WavLM's position bias
    adapter: bool


def fuse(model: nn.Module) -> dict[str, str]:
    """Run the encoder's layers fused, in place; {part: why not} of those whose structure is another."""
    encoder = getattr(getattr(model, "base_model", None), "encoder", None)
    layers = getattr(encoder, "layers", None)
    if encoder is None or layers is None:
        return {"encoder": "it has no layers"}
    pre_norm = bool(getattr(getattr(model, "config", None), "do_stable_layer_norm", False))
    reasons = {f"encoder.layers.{number}": _unknown_structure(layer) for number, layer in enumerate(layers)}
    for layer, reason in zip(layers, reasons.values(), strict=True):
        if reason is None:
            relative = hasattr(layer.attention, "gru_rel_pos_linear")
            layer.form = LayerForm(pre_norm, relative, getattr(layer, "adapter_layer", None) is not None)
            layer.forward = types.MethodType(_layer, layer)
    positional = getattr(encoder, "pos_conv_embed", None)
    if positional is not None:
        fused = _positional if _is_positional(positional) else _each_positional
        positional.forward = types.MethodType(fused, positional)
    return {name: reason for name, reason in reasons.items() if reason is not None}


def is_gelu(activation: Any) -> bool:
    """Whether a module or function is the exact GELU."""
    if not callable(activation) or (isinstance(activation, nn.Module) and any(True for _ in activation.parameters())):
        return False
    probe = torch.tensor([-1.0, 0.5])
    try:
        return torch.equal(activation(probe), F.gelu(probe))
    except (RuntimeError, TypeError):  # it takes something else than a tensor of one dimension
        return False


def _unknown_structure(layer: Any) -> str | None:
    block: Any = getattr(layer, "attention", None)
    forward: Any = getattr(layer, "feed_forward", None)
    projections = [getattr(block, f"{name}_proj", None) for name in ("q", "k", "v", "out")]
    dense = [getattr(forward, f"{name}_dense", None) for name in ("intermediate", "output")]
    if not all(isinstance(each, IntegerLinear) for each in (*projections, *dense)):
        return "not every projection is an integer module"
    if not is_gelu(getattr(forward, "intermediate_act_fn", None)):
        return "the activation is not GELU"
    norms = [getattr(layer, name, None) for name in ("layer_norm", "final_layer_norm")]
    return None if all(isinstance(norm, nn.LayerNorm) for norm in norms) else "its norms are of an unknown form"


def _is_positional(module: Any) -> bool:
    conv, padding = getattr(module, "conv", None), getattr(module, "padding", None)
    if not isinstance(conv, IntegerConv) or getattr(module, "batch_norm", None) is not None:
        return False
    surplus = 2 * conv.form.padding - conv.kernel + 1
    return (
        conv.form.stride == 1
        and getattr(padding, "num_pad_remove", None) == surplus
        and is_gelu(getattr(module, "activation", None))
    )


@torch.no_grad()
def _layer(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    **keywords: Any,
) -> Any:
    """One layer on hidden_states (B, T, C), as the module's own forward computes it."""
    form: LayerForm = self.form
    if self.training or is_watched(self.attention):
        return _module_by_module(self, hidden_states, attention_mask, position_bias, keywords)
    lengths = utterance_lengths.lengths()
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    x = kernels.rounded(rows)
    read = norm(self.layer_norm, x) if form.pre_norm else x
    if form.relative and position_bias is None:
        position_bias = _distance_bias(self.attention, max(lengths or hidden_states.shape[1:2]))
    out_proj: IntegerLinear = self.attention.out_proj
    shapes = [(1, length) for length in lengths] if lengths else [(hidden_states.shape[0], hidden_states.shape[1])]
    context = attend_rows(self.attention, read, shapes, attention_mask, position_bias)
    x = kernels.linear_plus(context, out_proj.input.point, out_proj.prepacked()[0], x)
    dense = self.feed_forward.intermediate_dense, self.feed_forward.output_dense
    if form.pre_norm:
        x = feed_forward(*dense, norm(self.final_layer_norm, x), x)
    else:
        x = norm(self.layer_norm, x)
        x = norm(self.final_layer_norm, feed_forward(*dense, x, x))
    if form.adapter:
        x = x + self.adapter_layer(x)
    result = x[: len(rows)].view(hidden_states.shape)
    return (result, position_bias) if form.relative else result


def is_watched(module: nn.Module) -> bool:
    """Whether a module that is not called here has hooks (of transformers for output_attentions, or of a user)."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _module_by_module(
    self: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor | None, keywords: dict[str, Any]
) -> Any:
    own = type(self).forward
    if self.form.relative:
        if bias is not None and bias.ndim == 2:  # from a fused layer before this one
            frames = hidden.shape[1]
            bias = bias.unfold(1, frames, 1).flip(1).repeat(len(hidden), 1, 1)
        return own(self, hidden, attention_mask=mask, position_bias=bias, **keywords)
    return _each_utterance(lambda x: own(self, x, attention_mask=mask, **keywords), hidden)


@timed("norms")
def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm of rows."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def feed_forward(first: IntegerLinear, second: IntegerLinear, x: Tensor, residual: Tensor) -> Tensor:
    """The residual plus second(gelu(first(x))) of rows (n, C): uint8 between the two products."""
    codes = first.quantize_input(x)
    if second.form.input_bits == 8:
        requantize = second.input.point
        codes = kernels.linear(codes, first.input.point, first.prepacked()[0], gelu=True, requantize=requantize)
    else:  # the kernel clamps to 8 bits only
        codes = second.quantize_input(kernels.linear(codes, first.input.point, first.prepacked()[0], gelu=True))
    return kernels.linear_plus(codes, second.input.point, second.prepacked()[0], residual)


def attend_rows(
    block: Any, x: Tensor, shapes: list[tuple[int, int]], mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Attention of rows x (n, C) within each utterance: uint8 (n, C) for the output projection.

    `shapes` are those of the batches (B, T) that follow each other in the rows; each utterance of one is T long.
    """
    parts = [*_projected(block, x), *([] if bias is None else [_gate(block, x)])]
    codes = torch.empty_like(x, dtype=torch.uint8)
    start = 0
    for batch, frames in shapes:
        stop = start + batch * frames
        piece = [part[start:stop].view(batch, frames, -1) for part in parts]
        context = _attend(block.num_heads, piece, mask, bias).flatten(0, 1)
        block.out_proj.quantize_input(context, codes[start:stop])
        start = stop
    return codes


def _attend(heads: int, parts: list[Tensor], mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """q, k, v (B, T, C), and the gate (B, T, heads) where there is a bias -> (B, T, C)."""
    if bias is None:
        q, k, v = parts
        return attention_products.attend(q, k, v, heads, mask)
    q, k, v, gate = parts
    middle, frames = bias.shape[1] // 2, q.shape[1]
    near = bias[:, middle - frames + 1 : middle + frames]
    return attention_products.attend_relative(
        q, k, v, gate.transpose(1, 2), near, None if mask is None else mask.eq(1)
    )


def _projected(block: Any, x: Tensor) -> tuple[Tensor, ...]:
    """q, k and v (n, C): one product where their inputs lie on one grid."""
    q, k, v = parts = (block.q_proj, block.k_proj, block.v_proj)
    dtype = attention_products.number_format()
    if q.input == k.input == v.input:
        joined = kernels.linear(q.quantize_input(x), q.input.point, q.joined(k, v), dtype=dtype)
        return joined.split([len(each.scales) for each in parts], 1)
    return tuple(
        kernels.linear(each.quantize_input(x), each.input.point, each.prepacked()[0], dtype=dtype) for each in parts
    )


@timed("attention")
def _gate(block: Any, x: Tensor) -> Tensor:
    """WavLM's gate of the position bias (Chen et al. 2022, section 3.1) for rows x (n, C): (n, heads)."""
    gates = block.gru_rel_pos_linear(x.view(len(x), block.num_heads, -1))
    update, reset = torch.sigmoid(gates.view(len(x), block.num_heads, 2, 4).sum(-1)).unbind(-1)
    gate: Tensor = update * (reset * block.gru_rel_pos_const.view(-1) - 1.0) + 2.0
    return gate


def _distance_bias(block: Any, frames: int) -> Tensor:
    """WavLM's position bias (heads, 2 frames - 1) for the distances from 1 - frames to frames - 1."""
    distances = torch.arange(1 - frames, frames)
    bias: Tensor = block.rel_attn_embed(block._relative_positions_bucket(distances)).T.contiguous()
    return bias


@torch.no_grad()
def _positional(self: Any, hidden_states: Tensor) -> Tensor:
    """The positional convolution with its GELU on hidden_states (B, T, C), utterance by utterance."""
    return _each_utterance(lambda x: torch.stack([_position(self.conv, rows) for rows in x]), hidden_states)


@timed("positional")
def _position(conv: IntegerConv, x: Tensor) -> Tensor:
    """Rows x (T, C) -> gelu(conv(x)) (T, C): each group's windows times its weights."""
    frames = len(x)
    codes = conv.quantize_input(x).view(frames, conv.form.groups, -1).transpose(0, 1)
    padding = conv.form.padding
    behind = conv.kernel - 1 - padding + kernels.round_rows(frames) - frames
    padded = F.pad(codes, (0, 0, padding, behind), value=conv.input.zero_point)
    return torch.cat([conv.rows(group, number, gelu=True)[:frames] for number, group in enumerate(padded)], dim=1)


def _each_positional(self: Any, hidden_states: Tensor) -> Tensor:
    """The module's own forward, utterance by utterance."""
    return _each_utterance(lambda x: type(self).forward(self, x), hidden_states)


def _each_utterance(function: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """`function` of (B, T, C), applied to each utterance of a packed (1, n, C)."""
    lengths = utterance_lengths.lengths()
    return function(hidden) if lengths is None else torch.cat([function(x) for x in hidden.split(lengths, 1)], dim=1)
