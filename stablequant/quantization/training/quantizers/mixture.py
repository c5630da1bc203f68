"""A weight of several widths at once, whose shares are learned: what single-stage mixed precision trains.

    w^ = sum_b share_b w^_b      share = softmax((log p + noise) / temperature)      p_b ~ exp(value_b - price bytes_b)

(Xu et al. 2025, arXiv 2501.03643; the softmax with Gumbel noise is Jang et al. 2017, arXiv 1611.01144.) All widths
share master values; each has a grid of its own. `price` is one number for the whole model, the Lagrange multiplier of
its bytes: with the one at which the expected bytes are those allowed, every width that is likely is worth its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...numerics.weight_grid import QTensor
from .weight import Master, TrainedWeight

PREFERRED = 2.0  # value at first of the width that a site has in the plan; others have 0


def likely(values: Tensor, bytes: Tensor, price: float) -> Tensor:
    """P of the widths of every site, all (sites, widths)."""
    return (values - price * bytes).softmax(-1)


@dataclass(frozen=True)
class Widths:
    """A weight rounded to several numbers of bits, what each takes on disk, and the bits preferred at first."""

    weights: Mapping[int, QTensor]
    bytes: Mapping[int, int]
    preferred: int


class MixedWeight(nn.Module):
    """The weight of a module that holds w^, a mixture of its rounded forms."""

    def __init__(self, weight: nn.Parameter, start: Widths) -> None:
        super().__init__()
        self.target = (weight,)  # in a tuple: not a parameter of this module
        self.widths = tuple(start.weights)
        self.bytes = torch.tensor([float(start.bytes[bits]) for bits in self.widths])
        self.master = Master(start.weights[self.widths[len(self.widths) // 2]].grid)
        self.of = tuple(TrainedWeight(weight, each, self.master) for each in start.weights.values())
        self.parts = nn.ModuleList(self.of)
        self.value = torch.tensor([PREFERRED if bits == start.preferred else 0.0 for bits in self.widths])  # at first
        self.share = torch.ones(len(self.widths)) / len(self.widths)
        self.gain = torch.zeros(len(self.widths))  # minus the gradient of the loss by the share of each

    @property
    def grids(self) -> list[nn.Parameter]:
        """What says where the points of the grids lie."""
        return [each for one in self.of for each in one.grids]

    def sample(self, probable: Tensor, noise: Tensor, temperature: float) -> None:
        """Draw the shares from the probabilities (widths,)."""
        self.share = ((probable.log() + noise) / temperature).softmax(0)

    @torch.no_grad()
    def place(self) -> None:
        """Write w^ into the module, without a gradient."""
        (target,) = self.target
        values = [share * one.value() for share, one in zip(self.share, self.of, strict=True)]
        target.copy_(torch.stack(values).sum(0).view(target.shape))
        target.grad = None

    @torch.no_grad()
    def collect(self) -> None:
        """The gradients of what is trained, and the gain of each width, from the gradient of w^ in the module."""
        (target,) = self.target
        if target.grad is None:
            return
        gradient = target.grad.flatten(1)
        self.gain = -torch.stack([torch.dot(gradient.flatten(), one.value().flatten()) for one in self.of])
        for share, one in zip(self.share, self.of, strict=True):
            one.learn(gradient * share)
        target.grad = None

    def chosen(self, bits: int) -> QTensor:
        """The weight at one width, as an engine runs it."""
        return self.of[self.widths.index(bits)].quantized()
