"""Several utterances of different lengths in one call, without padding.

Padding changes the result of a model with group norm, and costs time. Here the frames of all utterances are stored one
after another: linear layers process one long matrix, while extractor, positional convolution, attention and adapter
process one utterance at a time. The logits are those of the single utterances, up to float rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .utterance_lengths import packed
from .wav2vec2_encoder import is_watched


def can_batch(model: Any) -> bool:
    """Whether every encoder layer runs fused, and so knows where an utterance ends."""
    if not hasattr(model, "lm_head"):
        return False
    layers = getattr(getattr(getattr(model, "base_model", None), "encoder", None), "layers", ())
    return len(layers) > 0 and all(hasattr(layer, "form") and not is_watched(layer.attention) for layer in layers)


@torch.inference_mode()
def batched_logits(model: Any, waves: Sequence[Tensor]) -> list[Tensor]:
    """Logits (frames, vocabulary) of each of the model inputs `waves` (samples,)."""
    base = model.base_model
    features = [base.feature_extractor(wave[None]).transpose(1, 2) for wave in waves]
    projected = base.feature_projection(torch.cat(features, 1))
    hidden = projected if isinstance(projected, Tensor) else projected[0]
    lengths = tuple(each.shape[1] for each in features)
    with packed(lengths):
        hidden = base.encoder(hidden).last_hidden_state
    if getattr(base, "adapter", None) is not None:
        adapted = [base.adapter(each) for each in hidden.split(lengths, 1)]
        hidden, lengths = torch.cat(adapted, 1), tuple(each.shape[1] for each in adapted)
    return list(model.lm_head(hidden)[0].split(lengths))
