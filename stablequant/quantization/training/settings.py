"""The settings of training. Rates are in units of the grids, so that the defaults suit models of any size."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ...engines.onednn import attention_products


@dataclass(frozen=True)
class TuneSettings:
    """Rates of AdamW, lengths, and what is kept."""

    weight_rate: float = 1e-3  # of a master weight end to end, in steps of its grid
    layer_rate: float = 1e-2  # of a master weight, layer by layer
    step_rate: float = 3e-4  # of scales and steps (logarithms) and offsets (in steps)
    range_rate: float = 3e-4  # of the scales of inputs (logarithms)
    bias_rate: float = 1e-4  # of biases and norms
    momentum: tuple[float, float] = (0.9, 0.99)
    warm_up: float = 0.1  # share of the steps
    final: float = 0.05  # of the rates, at the last step
    layer_steps: int = 300  # for each layer
    layer_batch: int = 2  # recordings in one of them
    layer_recordings: int = 48  # whose inputs of a layer are kept; every fifth only checks
    layer_bytes: int = 2 << 30  # of those inputs and outputs: there are fewer recordings where they would need more
    layer_share: float = 0.6  # of the time, where time is the limit
    steps: int = 300  # end to end
    batch: int = 4  # recordings in one of them
    checks: int = 10  # evaluations on the development set, evenly spread
    patience: int = 4  # checks without a better one, after which training ends
    width_steps: int = 0  # end to end, while widths are learned; 150 are enough to settle them
    width_share: float = 0.2  # of the time, where time is the limit
    value_rate: float = 0.1  # of the values of widths, whose mean gradient is one
    hot: float = 2.0  # temperature of the shares of widths at first
    cold: float = 0.2  # at last
    transcripts: float = 0.3  # weight of the task's own loss beside the distance to the float model

    def temperature(self, progress: float) -> float:
        """Of the shares of widths: it falls by the same factor at each step."""
        return float(self.hot * (self.cold / self.hot) ** progress)

    def factor(self, progress: float) -> float:
        """Of the rates, when a share of the training is done: linear warm-up, then a cosine."""
        cosine = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        return cosine * min(1.0, max(self.final, progress / self.warm_up)) if self.warm_up else cosine


def fast_products() -> AbstractContextManager[object]:
    """Inside, the products of training passes are in bfloat16 where the CPU has instructions for it.

    Codes of 8 bits lose nothing that matters there, and a pass takes two thirds of the time; scores are in float32.
    """
    native = attention_products.number_format() == torch.bfloat16
    return torch.autocast("cpu", torch.bfloat16) if native else nullcontext()
