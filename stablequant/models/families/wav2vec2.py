"""wav2vec 2.0 and its relatives: a convolutional extractor on the waveform, a positional convolution, a transformer.

Two things in the family hide weights from a quantizer, and `prepare` undoes both without changing a result: the
positional convolution computes its weight from a norm and a direction at every call (weight_norm, Salimans & Kingma
2016), and WavLM passes its projections' weights to `F.multi_head_attention_forward` without calling the modules.
"""

from __future__ import annotations

import math
import types
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...quantization.numerics.reproducible import one_thread
from ...quantization.plan.site import Site
from .base import Geometry
from .sites import find_sites

MODEL_TYPES: tuple[str, ...] = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
INPUT = "input_values"
TASK = "ctc"


def prepare(model: nn.Module) -> nn.Module:
    """Fold weight_norm into the weight, and have WavLM call its projections as modules."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d) and parametrize.is_parametrized(module, "weight"):
            with one_thread():  # the norm is a sum, whose last bits depend on the number of threads
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        if type(module).__name__ == "WavLMAttention":
            attention: Any = module
            attention.torch_multi_head_self_attention = types.MethodType(_projected_attention, module)
    return model


def sites(model: nn.Module) -> tuple[Site, ...]:
    """In the order in which the modules are registered, which is that of the forward pass."""
    return find_sites(model)


def inputs(extractor: Any, waveform: np.ndarray, sampling_rate: int) -> dict[str, Tensor]:
    """The waveform, normalised as the feature extractor says."""
    features = extractor(waveform, sampling_rate=sampling_rate, return_tensors="pt")
    return {INPUT: features.input_values}


def geometry(config: Any) -> Geometry:
    """Of the convolutions of the extractor: 400 and 320 samples for most; each layer of an adapter adds its stride."""
    steps = [*config.conv_kernel, *config.conv_stride]
    if len(config.conv_kernel) != len(config.conv_stride) or not all(type(n) is int and n > 0 for n in steps):
        raise ValueError("conv_kernel and conv_stride in config.json must list one size per convolution")
    fewest = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        fewest = (fewest - 1) * stride + kernel
    adapter = config.adapter_stride**config.num_adapter_layers if getattr(config, "add_adapter", False) else 1
    return Geometry(fewest, math.prod(config.conv_stride) * int(adapter))


def _projected_attention(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
) -> tuple[Tensor, None]:
    """WavLM's attention with the projections called as modules: hidden_states (B, T, C), bias (B * heads, T, T)."""
    batch, frames, _ = hidden_states.shape
    q, k, v = (
        project(hidden_states).view(batch, frames, self.num_heads, self.head_dim).transpose(1, 2)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    bias = gated_position_bias.view(batch, self.num_heads, frames, frames)
    if attention_mask is not None:
        bias = bias.masked_fill(attention_mask.ne(1)[:, None, None, :], float("-inf"))
    dropout = self.dropout if self.training else 0.0
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return self.out_proj(context.transpose(1, 2).reshape(batch, frames, -1)), None
