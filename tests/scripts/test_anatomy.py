"""Multiply-adds against a count by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import anatomy


def test_multiply_adds_are_those_counted_by_hand():
    model, waveform = tiny.prepared(), torch.from_numpy(tiny.wave(0, 400 + 9 * 320))[None]
    frames = 10
    found = anatomy.multiply_adds(model, waveform)
    layer = frames * (4 * 32 * 32 + 2 * 32 * 48)
    others = frames * (32 * 32 + 32 * 16 * 16 + 32 * 8) + 32 * 16 * 16  # the positional one gives a frame too many
    lengths = []
    samples = waveform.shape[1]
    for conv in (each.conv for each in model.wav2vec2.feature_extractor.conv_layers):
        samples = (samples - conv.kernel_size[0]) // conv.stride[0] + 1
        lengths.append(samples * conv.kernel_size[0] * 32 * 32)
    assert found["products"] == sum(lengths[1:]) + 2 * layer + others
    assert found["attention"] == 2 * 2 * frames * frames * 32


def test_rates_are_positive(monkeypatch):
    monkeypatch.setattr(anatomy, "BEST", (64, 64, 64))
    assert anatomy.floor_ms({"products": 10**9, "attention": 10**8}) > 0
