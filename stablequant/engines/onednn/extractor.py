"""The CNN feature extractor, fused: channels-last, uint8 from layer to layer.

Recognised by structure: convolutions without padding, each followed by GELU, with a normalisation of one of two forms.

- base: GroupNorm with one channel a group after the first convolution only. That convolution reads the waveform, in
  float. The mean and variance of each of its outputs over time follow from the mean and covariance of its 10-sample
  windows (mean w.m, variance w' C w), so the norm folds into weights and bias for the utterance before a single
  output is computed. The other layers go from uint8 to uint8 in one kernel: product, GELU, requantization.
- large: LayerNorm over the channels after every convolution, which needs the float values of a frame: product, norm,
  GELU and quantization run on a chunk of frames that stays in the core's cache.

Everything is computed one utterance at a time: results do not depend on what else is in a batch. And a segment at a
time, since an output depends on 25 ms of audio only: memory between the layers does not grow with the audio.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...quantization.numerics.integer_grid import CHUNK
from .operators import kernels
from .operators.modules import IntegerConv
from .operators.stopwatch import timed
from .wav2vec2_encoder import is_gelu

Finish = Callable[[Tensor], Tensor]  # float frames (n, C) -> the same after norm and GELU
First = Callable[[Tensor, IntegerConv, int], Tensor]  # windows of the waveform, second layer, rows -> its input
SEGMENT = 256  # frames, 5 s: what lies between the layers stays small enough for malloc to keep, and for the cache


def fuse(model: nn.Module) -> str | None:
    """Run the model's extractor fused, in place; returns why not, when its structure is another."""
    extractor = getattr(getattr(model, "base_model", None), "feature_extractor", None)
    layers = getattr(extractor, "conv_layers", None)
    if extractor is None or not layers:
        return "there is no feature extractor with conv_layers"
    reason = _unknown_structure(list(layers))
    if reason is None:
        extractor.forward = types.MethodType(_forward, extractor)
    return reason


def _unknown_structure(layers: list[Any]) -> str | None:
    for layer in layers:
        activation = getattr(layer, "activation", None)
        if not is_gelu(activation):
            return f"the activation {type(activation).__name__} is not GELU"
    first, *rest = [getattr(layer, "conv", None) for layer in layers]
    if not isinstance(first, nn.Conv1d) or first.in_channels != 1 or first.padding[0] or first.dilation[0] != 1:
        return "the first convolution does not read the waveform in float without padding"
    if not all(isinstance(conv, IntegerConv) and not conv.form.padding for conv in rest):
        return "not every other convolution is an integer module without padding"
    norms = [getattr(layer, "layer_norm", None) for layer in layers]
    if isinstance(norms[0], nn.GroupNorm):
        per_channel = norms[0].num_groups == norms[0].num_channels
        return None if per_channel and not any(norms[1:]) else "its group norm is of an unknown form"
    return None if all(isinstance(norm, nn.LayerNorm) for norm in norms) else "its norms are of an unknown form"


@torch.no_grad()
def _forward(self: Any, input_values: Tensor) -> Tensor:
    """Features (B, C, frames) of waveforms (B, samples), as the module's own forward gives them."""
    return torch.stack([_utterance(list(self.conv_layers), wave) for wave in input_values]).transpose(1, 2)


@timed("extractor")
def _utterance(layers: list[Any], wave: Tensor) -> Tensor:
    """Features (frames, C) of a waveform (samples,), a segment at a time."""
    grouped = isinstance(layers[0].layer_norm, nn.GroupNorm)
    windows = _windows(layers[0].conv, wave)
    first = _group_normed(layers[0], windows) if grouped else _layer_normed(layers[0])
    frames, hop = len(windows), 1
    for kernel, stride in map(_geometry, layers[1:]):
        frames, hop = (frames - kernel) // stride + 1, hop * stride
    result = wave.new_empty((frames, len(layers[-1].conv.scales)))
    for start in range(0, frames, SEGMENT):
        count = min(SEGMENT, frames - start)
        rows = _rows_for(layers, count)
        codes = first(windows[start * hop : start * hop + rows], layers[1].conv, rows)
        for here, following in zip(layers[1:], [*layers[2:], None], strict=True):
            codes = _chained(here, following, codes) if grouped else _normed(here, following, codes)
        result[start : start + count] = codes[:count]
    return result


def _rows_for(layers: list[Any], frames: int) -> int:
    """Outputs of the first layer from which the last one makes a round number of frames, at least `frames`."""
    rows = kernels.round_rows(frames)
    for kernel, stride in map(_geometry, reversed(layers[1:])):
        rows = (rows - 1) * stride + kernel
    return rows


def _geometry(layer: Any) -> tuple[int, int]:
    return layer.conv.kernel, layer.conv.form.stride


def _group_normed(layer: Any, windows: Tensor) -> First:
    """The first layer of the base form, its norm over all windows (n, kernel) of the utterance folded into it."""
    conv, norm = layer.conv, layer.layer_norm
    exact = windows.double()
    mean = exact.mean(0)
    covariance = exact.T @ exact / len(exact) - torch.outer(mean, mean)
    weight = conv.weight.flatten(1).double()
    variance = ((weight @ covariance) * weight).sum(1).clamp_min_(0.0)
    gain = norm.weight.double() * (variance + norm.eps).rsqrt()
    folded = (weight * gain[:, None]).float()
    bias = (norm.bias.double() - gain * (weight @ mean)).float()  # the convolution's own bias cancels in the norm
    return partial(_in_chunks, folded, bias, torch.ops.aten.gelu_)


def _layer_normed(layer: Any) -> First:
    """The first layer of the large form."""
    conv = layer.conv
    bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    return partial(_in_chunks, conv.weight.flatten(1), bias, _norm_gelu(layer))


def _in_chunks(
    weight: Tensor, bias: Tensor, finish: Finish, windows: Tensor, following: IntegerConv, rows: int
) -> Tensor:
    """uint8 (rows, C) for the second layer; rows for which there is no window are left as they are."""
    codes = windows.new_empty((rows, len(weight)), dtype=torch.uint8)
    step = _chunk_frames(len(weight))
    buffer = windows.new_empty((step, len(weight)))
    for start in range(0, len(windows), step):
        piece = windows[start : start + step]
        out = finish(torch.addmm(bias, piece, weight.T, out=buffer[: len(piece)]))
        following.quantize_input(out, codes[start : start + len(piece)], spend=True)
    return codes


def _chained(here: Any, following: Any, codes: Tensor) -> Tensor:
    """Base form: product, GELU and requantization for the next layer in one kernel; float after the last."""
    if following is None:
        return here.conv.rows(codes, gelu=True)
    reader: IntegerConv = following.conv
    if reader.form.input_bits != 8 or reader.input.mid_rise:  # the kernel rounds to whole codes of 8 bits only
        return reader.quantize_input(here.conv.rows(codes, gelu=True), spend=True)
    return here.conv.rows(codes, gelu=True, requantize=reader.input.point)


def _normed(here: Any, following: Any, codes: Tensor) -> Tensor:
    """Large form: product, norm, GELU and quantization for the next layer, chunk by chunk; float after the last."""
    conv: IntegerConv = here.conv
    stride = conv.form.stride
    finish = _norm_gelu(here)
    count = (len(codes) - conv.kernel) // stride + 1
    result = codes.new_empty((count, len(conv.scales)), dtype=torch.float32 if following is None else torch.uint8)
    step = _chunk_frames(len(conv.scales))
    for start in range(0, count, step):
        stop = min(count, start + step)
        piece = codes[start * stride : (stop - 1) * stride + conv.kernel]
        out = finish(conv.rows(piece))
        if following is None:
            result[start:stop] = out
        else:
            following.conv.quantize_input(out, result[start:stop], spend=True)
    return result


def _norm_gelu(layer: Any) -> Finish:
    norm: nn.LayerNorm = layer.layer_norm

    def finish(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.aten.gelu_(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        return out

    return finish


def _chunk_frames(channels: int) -> int:
    return max(1, CHUNK // channels)


def _windows(conv: nn.Conv1d, wave: Tensor) -> Tensor:
    return kernels.windows(wave.contiguous()[:, None], conv.kernel_size[0], conv.stride[0])
