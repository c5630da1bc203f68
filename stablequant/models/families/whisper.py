"""Whisper (Radford et al. 2022): an encoder on 30 s of log-mel frames, and a decoder that writes tokens.

The table of token embeddings is also the output projection. As a product it is quantized like every other one, with a
scale for each token, and the decoder looks its rows up in the same codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from ...quantization.plan.site import Site
from .base import Geometry
from .sites import find_sites

MODEL_TYPES: tuple[str, ...] = ("whisper",)
INPUT = "input_features"
TASK = "seq2seq"
HOP = 160  # samples from one mel frame to the next
FRAMES_A_STEP = 2  # the second convolution has stride 2


def prepare(model: nn.Module) -> nn.Module:
    """Every weight is at its module already."""
    return model


def sites(model: nn.Module) -> tuple[Site, ...]:
    """In the order of the forward pass: convolutions, encoder, table of tokens, decoder."""
    return find_sites(model)


def inputs(extractor: Any, waveform: np.ndarray, sampling_rate: int) -> dict[str, Tensor]:
    """Log-mel frames (1, mels, frames) of the first 30 s, padded with silence."""
    return {INPUT: extractor(waveform, sampling_rate=sampling_rate, return_tensors="pt").input_features}


def geometry(config: Any) -> Geometry:
    """Steps of 320 samples in a window of `max_source_positions` steps; ValueError if that is no positive number."""
    steps = config.max_source_positions
    if type(steps) is not int or steps < 1:
        raise ValueError("max_source_positions in config.json must be a positive number of steps")
    stride = FRAMES_A_STEP * HOP
    return Geometry(HOP, stride, steps * stride, (1, config.num_mel_bins, steps * FRAMES_A_STEP))
