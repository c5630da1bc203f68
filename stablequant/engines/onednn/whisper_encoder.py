"""The encoder of Whisper, on log-mel frames, fused: convolutions, layers, and between them what is in 8 bits.

The two convolutions of the stem are products over windows, with GELU and the grid of the next one in the kernel. A
layer has its norms before its blocks. The decoder that reads the encoder's states is in decoder.py.
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .operators import kernels
from .operators.modules import IntegerConv, IntegerLinear
from .operators.stopwatch import timed
from .wav2vec2_encoder import attend_rows, feed_forward, is_gelu, is_watched, norm

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
PLAIN = frozenset({"attention_mask", "return_dict", "output_attentions", "output_hidden_states"})  # where false


def is_seq2seq(model: nn.Module) -> bool:
    """Whether a model has an encoder with a stem of two convolutions, and a decoder."""
    base: Any = getattr(model, "base_model", None)
    return all(hasattr(base, name) for name in ("encoder", "decoder")) and hasattr(base.encoder, "conv2")


def fuse(model: nn.Module) -> dict[str, str]:
    """Run the encoder fused, in place; {part: why not} of what has another structure."""
    base: Any = model.base_model
    encoder, reasons = base.encoder, {}
    for number, layer in enumerate(encoder.layers):
        if reason := unknown_layer(layer, ("self_attn",)):
            reasons[f"encoder.layers.{number}"] = reason
        else:
            layer.forward = types.MethodType(_layer, layer)
    if reason := _unknown_stem(encoder):
        reasons["encoder.conv1"] = reason
    else:
        encoder.forward = types.MethodType(_encoder, encoder)
    return reasons


def unknown_layer(layer: Any, attentions: tuple[str, ...]) -> str | None:
    """Why a layer cannot run fused: None if its products are integer, with GELU between those of its last block."""
    projections = [getattr(getattr(layer, each, None), name, None) for each in attentions for name in PROJECTIONS]
    if not all(isinstance(each, IntegerLinear) for each in (*projections, layer.fc1, layer.fc2)):
        return "not every projection is an integer module"
    return None if is_gelu(layer.activation_fn) else "the activation is not GELU"


def _unknown_stem(encoder: Any) -> str | None:
    convs = encoder.conv1, encoder.conv2
    if not all(isinstance(each, IntegerConv) and each.form.groups == 1 for each in convs):
        return "not every convolution is an integer module"
    return None


def _encoder(self: Any, input_features: Tensor, attention_mask: Any = None, **keywords: Any) -> Any:
    """States (B, steps, C) of features (B, mels, frames), as the module's own forward gives them."""
    expected = self.config.max_source_positions * self.conv2.form.stride
    special = (
        self.training or any(value for name, value in keywords.items() if name in PLAIN) or keywords.keys() - PLAIN
    )
    if special or input_features.shape[-1] != expected or is_watched(self.conv1) or is_watched(self.conv2):
        return type(self).forward(self, input_features, attention_mask=attention_mask, **keywords)
    with torch.no_grad():
        states = torch.stack([_stem(self.conv1, self.conv2, each) for each in input_features])
        states += self.embed_positions.weight
        for layer in self.layers:
            states = layer(states, None)
        return BaseModelOutput(last_hidden_state=norm(self.layer_norm, states))


@timed("convolutions")
def _stem(first: IntegerConv, second: IntegerConv, features: Tensor) -> Tensor:
    """Features (mels, frames) -> float32 (steps, C): uint8 and GELU between the two."""
    codes = _padded(first, first.quantize_input(features.T.contiguous()))
    if second.form.input_bits == 8:
        between = first.rows(codes, gelu=True, requantize=second.input.point)
    else:
        between = second.quantize_input(first.rows(codes, gelu=True))
    return second.rows(_padded(second, between), gelu=True)


def _padded(conv: IntegerConv, codes: Tensor) -> Tensor:
    padding = conv.form.padding
    return F.pad(codes, (0, 0, padding, padding), value=conv.input.zero_point)


def _layer(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **keywords: Any) -> Tensor:
    """One layer on hidden_states (B, T, C), as the module's own forward computes it."""
    block = self.self_attn
    if self.training or keywords.get("output_attentions") or is_watched(block):
        return type(self).forward(self, hidden_states, attention_mask, **keywords)
    with torch.no_grad():
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        x = kernels.rounded(rows)
        shape = hidden_states.shape[0], hidden_states.shape[1]
        context = attend_rows(block, norm(self.self_attn_layer_norm, x), [shape], attention_mask, None)
        x = kernels.linear_plus(context, block.out_proj.input.point, block.out_proj.prepacked()[0], x)
        x = feed_forward(self.fc1, self.fc2, norm(self.final_layer_norm, x), x)
        return x[: len(rows)].view(hidden_states.shape)
