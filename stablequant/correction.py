"""Bias correction: the mean of what quantization takes from a site's output is given back in its bias.

A grid as coarse as the extractor's (most of a GELU's output lies within four steps of 0) errs with the same sign again
and again, channel by channel. The mean error of an output, E[W x] - E[W^ Q(x)], follows from the mean of each input
channel before and after quantization, and costs nothing at run time to add to the bias (Nagel et al. 2019,
arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import sites
from .grid import QTensor, fake_quantize
from .plan import Choice

Means = dict[
    str, tuple[Tensor, Tensor]
]  # site -> mean of each input channel, float and quantized, float64 (channels,)


def corrected(
    model: nn.Module,
    choices: Mapping[str, Choice],
    weights: Mapping[str, QTensor],
    forward: Callable[[Any], Any],
    recordings: Iterable[Any],
) -> dict[str, QTensor]:
    """The weights with the shift of their bias, from one pass of the float model over the recordings."""
    means = channel_means(model, choices, forward, recordings)
    return {
        name: replace(weight, shift=shift(model.get_submodule(name), weight, *means[name]))
        for name, weight in weights.items()
    }


def channel_means(
    model: nn.Module, choices: Mapping[str, Choice], forward: Callable[[Any], Any], recordings: Iterable[Any]
) -> Means:
    """Mean of every input channel of the sites in `choices` over all recordings, float and quantized."""
    sums: dict[str, list[Any]] = {name: [torch.zeros(()), torch.zeros(()), 0] for name in choices}

    def hook(total: list[Any], choice: Choice) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = _channels_last(module, inputs[0])
            q = fake_quantize(x, choice.input_scale, choice.input_zero_point, choice.input_grid)
            total[0] = total[0] + x.double().sum(0)
            total[1] = total[1] + q.double().sum(0)
            total[2] += len(x)

        return add

    with ExitStack() as stack:
        for name, choice in choices.items():
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(hook(sums[name], choice)).remove)
        for recording in recordings:
            forward(recording)
    return {name: (float_sum / count, q_sum / count) for name, (float_sum, q_sum, count) in sums.items()}


def shift(module: nn.Module, weight: QTensor, mean: Tensor, quantized_mean: Tensor) -> Tensor:
    """What to add to the bias, float32 (out,), from the means of the input channels (channels,).

    A convolution reads each channel once for every tap; its edges, which read zeros, are not counted.
    """
    exact, rounded = sites.canonical_weight(module).double(), weight.dequantize().double()
    groups = module.groups if isinstance(module, nn.Conv1d) else 1
    taps = module.kernel_size[0] if isinstance(module, nn.Conv1d) else 1
    parts = [
        w @ m.repeat_interleave(taps) - w_rounded @ q.repeat_interleave(taps)
        for w, w_rounded, m, q in zip(
            exact.chunk(groups), rounded.chunk(groups), mean.chunk(groups), quantized_mean.chunk(groups), strict=True
        )
    ]
    return torch.cat(parts).float()


def _channels_last(module: nn.Module, x: Tensor) -> Tensor:
    """The input of a site as rows of channels, (B, C, T) or (..., C) -> (n, C)."""
    return x.transpose(1, 2).flatten(0, 1) if isinstance(module, nn.Conv1d) else x.flatten(0, -2)
