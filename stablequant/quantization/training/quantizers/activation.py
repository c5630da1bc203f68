"""An input that is trained on its grid: the codes of the engine, with gradients and a learned scale.

    x^ = scale (clamp(floor(x / scale + zero + 1/2), 0, top) - zero)        dx = g [inside]
    dscale = sum g (x^ - x [inside]) / scale

(LSQ, Esser et al. 2020, arXiv 1902.08153, with the zero point kept; x^ is what `fake_quantize` gives.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...numerics.integer_grid import fake_quantize
from ...plan.choice import InputChoice


class _OnGrid(torch.autograd.Function):
    """The forward and backward pass of the formulas above; `factor` is a logarithm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, choice: InputChoice) -> Tensor:
        """For x (...) float32 and factor () float32."""
        ctx.save_for_backward(x)
        ctx.choice = choice
        return fake_quantize(x, choice.scale, choice.exact_zero, choice.grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        choice, gradient = ctx.choice, gradients[0].float()
        x = ctx.saved_tensors[0].float()
        zero = choice.exact_zero
        low, high = ((code - zero) * choice.scale for code in (-0.5, choice.grid.high + 0.5))
        passed = gradient * ((x >= low) & (x < high))
        values = fake_quantize(x, choice.scale, zero, choice.grid)
        return passed, torch.dot(gradient.flatten(), values.flatten()) - torch.dot(passed.flatten(), x.flatten()), None


class TrainedInput(nn.Module):
    """Quantizes the input of a module as `choice` says, with a factor on its scale that is learned."""

    def __init__(self, choice: InputChoice) -> None:
        super().__init__()
        self.choice = choice
        self.factor = nn.Parameter(torch.zeros(()))

    def chosen(self) -> InputChoice:
        """The choice with the scale as it is now."""
        first = self.choice
        scale = float(torch.tensor(first.scale) * self.factor.detach().exp())
        ratio = scale / first.scale
        if scale == first.scale:
            return first
        low, high = first.low * ratio, first.high * ratio
        return replace(first, scale=scale, low=low, high=high, method=None, clip_percent=None)

    def forward(self, x: Tensor) -> Tensor:
        """The points of the grid that are nearest to x (...)."""
        found: Tensor = _OnGrid.apply(x, self.factor, self.chosen())
        return found
