"""A weight that is trained on its grid: master values, the scale of each row, steps and offsets of each group.

    w^ = scale (offset + step code)        code = clamp(round(v), 0, top)        v = (w / scale - offset) / step

Rounding passes gradients straight through; clipped weights have none. With g the gradient of w^, summed over a group,
this is LSQ+ (Bhalgat et al. 2020, arXiv 2004.09576) on the two-level grid of numerics/weight_grid.py:

    dw = g [inside]        dstep = scale sum g (code - v [inside])        doffset = scale sum g [outside]
    dscale = sum_groups (step dstep + offset doffset) / scale

The quantizer runs once for a step of the optimizer, however many recordings the step has: `place` writes w^ into the
module, whose gradient the recordings add up, and `collect` turns that into the gradients of what is trained. All that
is trained is in units of the grid it starts from, so that one learning rate suits all sites of all models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..numerics.weight_grid import QTensor


@dataclass(frozen=True)
class Rounded:
    """Master values on the grid, all (out, groups, size), and the grid (out, groups)."""

    place: Tensor  # v, in steps from the first code
    inside: Tensor  # 1 where the code is not clipped, else 0
    scale: Tensor  # (out,)
    steps: Tensor
    offsets: Tensor
    top: int

    @property
    def codes(self) -> Tensor:
        return self.place.round().clamp_(0, self.top)

    @property
    def weight(self) -> Tensor:
        return self.codes.mul_(self.steps[..., None]).add_(self.offsets[..., None]).mul_(self.scale[:, None, None])


class TrainedWeight(nn.Module):
    """The weight of a module that stays a parameter of it and holds w^; `start` is its rounded form."""

    first_scale: Tensor
    first_steps: Tensor

    def __init__(self, weight: nn.Parameter, start: QTensor) -> None:
        super().__init__()
        self.target = (weight,)  # in a tuple: not a parameter of this module
        self.grid = start.grid
        self.columns = start.codes.shape[1]
        self.register_buffer("first_steps", start.grid.steps.float())
        self.register_buffer("first_scale", start.scale.clone())
        unit = self.first_scale[:, None, None] * self.first_steps[..., None]
        self.master = nn.Parameter(self._grouped(start.dequantize()) / unit)  # in the middle of its cell
        self.scale = nn.Parameter(torch.zeros_like(start.scale))  # logarithm of a factor
        packed = start.format.coarse
        self.steps = nn.Parameter(torch.zeros_like(self.first_steps), requires_grad=packed)  # logarithm of a factor
        self.offsets = nn.Parameter(start.grid.offsets.float() / self.first_steps, requires_grad=packed)
        self.place()

    def rounded(self) -> Rounded:
        """The master values on the grid as it is now."""
        scale = self.first_scale * self.scale.detach().exp()
        steps, offsets = self._points()
        unit = self.first_steps / steps * (self.first_scale / scale)[:, None]
        v = self.master.detach() * unit[..., None] - (offsets / steps)[..., None]
        inside = ((v > -0.5) & (v < self.grid.format.top + 0.5)).float()
        return Rounded(v, inside, scale, steps, offsets, self.grid.format.top)

    def _points(self) -> tuple[Tensor, Tensor]:
        """Whole steps and offsets, (out, groups) float."""
        return self.grid.format.whole(
            self.first_steps * self.steps.detach().exp(), self.offsets.detach() * self.first_steps
        )

    @torch.no_grad()
    def place(self) -> None:
        """Write w^ into the module, without a gradient."""
        (target,) = self.target
        target.copy_(self._flat(self.rounded().weight).view(target.shape))
        target.grad = None

    @torch.no_grad()
    def collect(self) -> None:
        """The gradients of what is trained, from the gradient of w^."""
        (target,) = self.target
        if target.grad is None:
            return
        at, gradient = self.rounded(), self._grouped(target.grad.flatten(1))
        target.grad = None
        passed = gradient * at.inside
        of_steps = (gradient * at.codes - passed * at.place).sum(-1)
        of_offsets = (gradient - passed).sum(-1)
        if self.steps.requires_grad:
            scale = at.scale[:, None]
            symmetric = not self.grid.format.asymmetric
            outside = of_offsets * (-self.grid.format.top / 2) if symmetric else 0.0  # then offsets follow steps
            self.steps.grad = (of_steps + outside) * at.steps * scale
            self.offsets.grad = torch.zeros_like(self.offsets) if symmetric else of_offsets * scale * self.first_steps
        self.scale.grad = ((of_steps * at.steps + of_offsets * at.offsets).sum(1)) * at.scale
        self.master.grad = passed.mul_((self.first_steps * self.first_scale[:, None])[..., None])

    def quantized(self) -> QTensor:
        """The weight as an engine runs it."""
        at = self.rounded()
        codes = at.codes.mul_(at.steps[..., None]).add_(at.offsets[..., None])
        steps, offsets = at.steps.to(torch.uint8), at.offsets.to(torch.int8)
        return replace(self.grid, scale=at.scale, steps=steps, offsets=offsets).hold(self._flat(codes).to(torch.int8))

    def _grouped(self, x: Tensor) -> Tensor:
        """(out, n) as (out, groups, size), filled up with zeros."""
        groups = self.first_steps.shape[1]
        size = self.grid.format.group or self.columns
        return F.pad(x, (0, groups * min(size, self.columns) - self.columns)).view(len(x), groups, -1)

    def _flat(self, x: Tensor) -> Tensor:
        """(out, groups, size) as (out, n)."""
        return x.flatten(1)[:, : self.columns].contiguous()
