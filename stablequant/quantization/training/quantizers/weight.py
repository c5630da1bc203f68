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

from ...numerics.weight_grid import QTensor, WeightGrid


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


class Master(nn.Module):
    """How far weights (out, n) have moved from where training began, in steps of a grid: one rate suits all."""

    unit: Tensor

    def __init__(self, grid: WeightGrid) -> None:
        super().__init__()
        self.register_buffer("unit", grid.scale[:, None] * grid.steps.float())  # (out, groups)
        self.group = grid.group
        self.steps = nn.Parameter(torch.zeros(len(grid.scale), len(grid.group)))

    def moved(self) -> Tensor:
        """As a difference of weights."""
        return self.steps.detach() * self.unit[:, self.group]

    def learn(self, gradient: Tensor) -> None:
        """Add the gradient (out, n) of the weights."""
        gradient = gradient.mul_(self.unit[:, self.group])
        self.steps.grad = gradient if self.steps.grad is None else self.steps.grad.add_(gradient)


class TrainedWeight(nn.Module):
    """The weight of a module that stays a parameter of it and holds w^; `start` is its rounded form.

    Weights that a format with sparsity does not keep stay zero, and are not trained.
    Weights of several widths that are trained together share a `master`.
    """

    first_scale: Tensor
    first_steps: Tensor
    first_codes: Tensor

    def __init__(self, weight: nn.Parameter, start: QTensor, master: Master | None = None) -> None:
        super().__init__()
        self.target = (weight,)  # in a tuple: not a parameter of this module
        self.grid = start.grid
        self.columns = start.codes.shape[1]
        self.register_buffer("first_steps", start.grid.steps.float())
        self.register_buffer("first_scale", start.scale.clone())
        self.register_buffer("first_codes", start.codes)  # a weight begins in the middle of its cell
        self.master = master or Master(start.grid)
        self.scale = nn.Parameter(torch.zeros_like(start.scale))  # logarithm of a factor
        packed = start.format.bits <= 4  # above, steps are always 1
        self.steps = nn.Parameter(torch.zeros_like(self.first_steps), requires_grad=packed)  # logarithm of a factor
        self.offsets = nn.Parameter(start.grid.offsets.float() / self.first_steps, requires_grad=packed)

    @property
    def grids(self) -> list[nn.Parameter]:
        """What says where the points of the grid lie."""
        return [each for each in (self.scale, self.steps, self.offsets) if each.requires_grad]

    def rounded(self) -> Rounded:
        """The master values on the grid as it is now."""
        scale = self.first_scale * self.scale.detach().exp()
        steps, offsets = self._points()
        codes = self.first_codes * (self.first_scale / scale)[:, None] + self.master.moved() / scale[:, None]
        v = (self._grouped(codes) - offsets[..., None]) / steps[..., None]
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
        target.copy_(self.value().view(target.shape))
        target.grad = None

    def value(self) -> Tensor:
        """w^ (out, n)."""
        return self._kept(self._flat(self.rounded().weight))

    @torch.no_grad()
    def collect(self) -> None:
        """The gradients of what is trained, from the gradient of w^ in the module."""
        (target,) = self.target
        if target.grad is not None:
            self.learn(target.grad.flatten(1))
            target.grad = None

    def learn(self, gradient: Tensor) -> None:
        """The gradients of what is trained, from that of w^ (out, n)."""
        at, gradient = self.rounded(), self._grouped(self._kept(gradient))
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
        self.master.learn(self._flat(passed))

    def quantized(self) -> QTensor:
        """The weight as an engine runs it."""
        at = self.rounded()
        codes = at.codes.mul_(at.steps[..., None]).add_(at.offsets[..., None])
        steps, offsets = at.steps.to(torch.uint8), at.offsets.to(torch.int8)
        grid = replace(self.grid, scale=at.scale, steps=steps, offsets=offsets)
        return grid.hold(self._kept(self._flat(codes)).to(torch.int8))

    def _kept(self, x: Tensor) -> Tensor:
        """(out, n) with zeros for weights that are not kept."""
        return x if self.grid.kept is None else x * self.grid.kept

    def _grouped(self, x: Tensor) -> Tensor:
        """(out, n) as (out, groups, size), filled up with zeros."""
        groups = self.first_steps.shape[1]
        size = self.grid.format.group or self.columns
        return F.pad(x, (0, groups * min(size, self.columns) - self.columns)).view(len(x), groups, -1)

    def _flat(self, x: Tensor) -> Tensor:
        """(out, groups, size) as (out, n)."""
        return x.flatten(1)[:, : self.columns].contiguous()
