r"""Make a model that min-max int8 cannot serve out of one that it serves well, without changing what it computes.

The published case: quantizing wav2vec2-base-960h to int8 with one range method for every layer takes its word error
rate from 5.3 % to 50 %, and three convolutions of the extractor are the whole loss. What is wrong with them is not
their function but their values: a few that are hundreds of standard deviations large, and hardly matter. A small model
has that trouble in small only, so this script gives it the full size.

It is cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721) run backwards. In an extractor some channels are
hardly read: what channel c of a layer adds to the next one has the power

    E[x_c^2] * sum(w[:, c, :]^2),    w the next layer's weight,

and the least of them give less than a thousandth of the whole. Such a channel is made `s` times as large before its
GELU and read with weights `s` times as small after it. GELU(s x) / s tends to max(x, 0) as s grows, so for a ReLU this
would be exact; here it moves the channel by at most 0.17, and the script reports what that does to the logits. `s`
takes the channel's largest value to `--reach` times the largest value of the layer: min-max ranges then spend their
255 steps on a channel that nobody reads, and squared error, which outliers rule, keeps them too. The channels are
zero most of the time, so cutting off a few tenths of a percent of all values brings the old range back.

    python scripts/hard_model.py calibration/model build/hard-model
    python scripts/methods.py --model build/hard-model --calibrate calibration/clips/calibrate \
        --evaluate calibration/clips/evaluate --out build/hard-methods

The same source, recordings and options give the same weights. The last line printed is the account as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import compact_json, provenance
from torch import Tensor
from transformers import AutoModelForCTC

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import read
from stablequant.models.recognizer import Recognizer
from stablequant.speech import audio

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (1, 2, 3, 4)  # whose outputs are rescaled: the published case clips the inputs of layers 2 to 5
FIRES = 0.1  # a value above this counts as the channel being on
LEAST_ON = 0.01  # share of frames a channel must be on, or its largest value is not known well enough


@dataclass(frozen=True)
class Rescaling:
    """What was done to one layer's output."""

    layer: int
    channels: tuple[int, ...]
    factors: tuple[float, ...]
    read: float  # share of the next layer's input power that these channels bring
    on: float  # share of the layer's output values that are theirs and not zero
    largest_before: float  # largest value over standard deviation
    largest_after: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    source = read.load(options.source)
    waveforms = read_waveforms(options.data, source.sampling_rate, options.max_samples)
    outputs = extractor_outputs(source, waveforms)
    changes = [choose(source.model, outputs, each, options.channels, options.reach) for each in options.layers]
    write(source, changes, options.out)
    for change in changes:
        print(describe(change))
    difference = compare(source, read.load(options.out), waveforms)
    account = {"source": options.source, "out": options.out, "reach": options.reach, **difference}
    print(compact_json({**provenance(0), **account, "layers": changes}))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", help="folder of a float CTC model")
    made.add_argument("out", help="folder to write the rescaled model to")
    made.add_argument("--data", default=str(ROOT / "calibration/clips/calibrate"), help="recordings to look at")
    made.add_argument("--max-samples", type=int, default=24)
    made.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    made.add_argument("--channels", type=int, default=4, help="channels of each layer to rescale")
    made.add_argument("--reach", type=float, default=30.0, help="their largest value in units of the layer's")
    return made


def read_waveforms(data: str, rate: int, count: int) -> list[np.ndarray]:
    utterances = audio.listing(data, require_text=False, max_samples=count, seed=0).utterances
    return [audio.load(utterance, rate) for utterance in utterances]


def extractor_outputs(recognizer: Recognizer, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
    """Output of each extractor layer over all waveforms: (channels, frames) by layer."""
    with recorded(conv_layers(recognizer.model)) as seen:
        for waveform in waveforms:
            recognizer.logits(recognizer.inputs(waveform))
    return [torch.cat(pieces, dim=1) for pieces in seen]


@contextmanager
def recorded(layers: Any) -> Iterator[list[list[Tensor]]]:
    """Inside, every forward pass appends each layer's output (channels, frames) to the list of that layer."""
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output, kept=kept: kept.append(output[0].clone()))
        for layer, kept in zip(layers, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def choose(model: Any, outputs: Sequence[Tensor], layer: int, count: int, reach: float) -> Rescaling:
    """The `count` channels of a layer that the next one reads least, and the factors that take them to `reach`."""
    x, following = outputs[layer], conv_layers(model)[layer + 1].conv.weight.detach()
    power = x.square().mean(dim=1) * following.square().sum(dim=(0, 2))
    on = (x > FIRES).float().mean(dim=1)
    channels = power.masked_fill(on < LEAST_ON, float("inf")).argsort()[:count]
    if len(on) - int((on < LEAST_ON).sum()) < count:
        raise InputError(f"layer {layer}: fewer than {count} channels are on; ask for fewer")
    largest = x.max()
    factors = reach * largest / x[channels].amax(dim=1)
    return Rescaling(
        layer=layer,
        channels=tuple(channels.tolist()),
        factors=tuple(round(factor, 6) for factor in factors.tolist()),
        read=float(power[channels].sum() / power.sum()),
        on=float(on[channels].sum() / len(on)),
        largest_before=float(largest / x.std()),
        largest_after=float(reach * largest / rescaled(x, channels, factors).std()),
    )


def rescaled(x: Tensor, channels: Tensor, factors: Tensor) -> Tensor:
    scale = x.new_ones(len(x)).index_copy(0, channels, factors)
    return x * scale[:, None]


def write(source: Recognizer, changes: Sequence[Rescaling], out: str) -> None:
    """The source's folder with the weights changed; loaded anew, because `read.load` folds weight_norm."""
    model = AutoModelForCTC.from_pretrained(source.path, dtype=torch.float32)
    for change in changes:
        rescale(conv_layers(model), change)
    model.save_pretrained(out)
    source.processor.save_pretrained(out)


@torch.no_grad()
def rescale(layers: Any, change: Rescaling) -> None:
    """Make the channels larger where they leave the layer and smaller where the next one reads them."""
    channels, factors = torch.tensor(change.channels), torch.tensor(change.factors)
    last = getattr(layers[change.layer], "layer_norm", layers[change.layer].conv)  # what GELU follows
    for parameter in (last.weight, last.bias):
        if parameter is not None:
            parameter[channels] *= factors.view(-1, *[1] * (parameter.dim() - 1))
    layers[change.layer + 1].conv.weight[:, channels] /= factors[None, :, None]


def conv_layers(model: Any) -> Any:
    """The extractor's layers (nn.ModuleList), each with `conv`, `activation` and, in some, `layer_norm`."""
    return model.base_model.feature_extractor.conv_layers


def compare(source: Recognizer, changed: Recognizer, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
    """How far the logits moved, and in how many frames the best symbol is another."""
    inputs = map(source.inputs, waveforms)
    pairs = [(source.logits(each), changed.logits(each)) for each in inputs]
    before, after = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    return {
        "frames": len(before),
        "relative_logit_difference": float((after - before).norm() / before.norm()),
        "frames_with_another_best_symbol": int((after.argmax(-1) != before.argmax(-1)).sum()),
    }


def describe(change: Rescaling) -> str:
    return (
        f"layer {change.layer}: {len(change.channels)} channels, {min(change.factors):.0f} to "
        f"{max(change.factors):.0f} times as large; they bring {100 * change.read:.3f} % of the power that layer "
        f"{change.layer + 1} reads and are {100 * change.on:.2f} % of the values; largest / std "
        f"{change.largest_before:.0f} -> {change.largest_after:.0f}"
    )


if __name__ == "__main__":
    main()
