"""Search the grid on which a low-bit weight has the least squared error, group by group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .weight_grid import LARGEST

REACHES = (1.0, 0.8)  # of the row's largest weight, that the int8 codes may reach
CHUNK = 1 << 18  # weights that are searched together: their sums stay in cache
SHARES = tuple(1.0 - 0.05 * n for n in range(14))  # of the range of a group, that its points may cover


@dataclass(frozen=True)
class Groups:
    """Weights that follow each other in a row and share a step."""

    bits: int
    group: int | None = None  # weights in a group, None: the whole row
    asymmetric: bool = False  # groups have offsets of their own

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - (1 if self.asymmetric or self.bits < 4 else 2)

    def size(self, columns: int) -> int:
        """Weights in a group of a row that is `columns` long."""
        return columns if self.group is None else min(self.group, columns)

    def count(self, columns: int) -> int:
        return -(-columns // self.size(columns))


def fit(weight: Tensor, groups: Groups, importance: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (out,), steps and offsets (out, groups) of least squared error for a weight (out, n).

    `importance` (n,) weighs the columns, or (out, n) each weight. Searched are the clip of each group (SHARES), which
    its step is, and that of the row.
    """
    columns = weight.shape[1]
    power = torch.ones(columns) if importance is None else importance / importance.mean().clamp_min(1e-30)
    parts = weight.float().split(max(1, CHUNK // columns))
    powers = [power[None]] * len(parts) if power.ndim == 1 else power.split(max(1, CHUNK // columns))
    found = [_fit(*each, groups) for each in zip(parts, powers, strict=True)]
    scale, steps, offsets = (torch.cat(each) for each in zip(*found, strict=True))
    return scale, steps.to(torch.uint8), offsets.to(torch.int8)


def _fit(weight: Tensor, power: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (out,), steps and offsets (out, groups), all float32, for some rows; power (1, n) or (out, n)."""
    values, weights = _grouped(weight, groups), _grouped(power, groups)
    largest = weight.abs().amax(1)
    best: tuple[Tensor, ...] | None = None
    for reach in REACHES:
        scale = torch.where(largest > 0, largest * (reach / LARGEST), torch.ones_like(largest))
        found = (scale, *_search(values / scale[:, None, None], weights, groups))
        error = found[3].sum(1) * scale.square()
        best = (*found[:3], error) if best is None else _better(best, (*found[:3], error))
    assert best is not None
    return best[0], best[1], best[2]


def _better(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Row by row, the fit with the smaller error, which is the last of each tuple (out,)."""
    b_wins = b[-1] < a[-1]
    return tuple(torch.where(b_wins if x.ndim == 1 else b_wins[:, None], y, x) for x, y in zip(a, b, strict=True))


def _search(values: Tensor, weights: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Steps, offsets and errors (out, groups) for values (out, groups, size) in units of the scale."""
    low, high = values.amin(-1), values.amax(-1)
    if not groups.asymmetric:
        high = torch.maximum(-low, high)
        low = -high
    steps = torch.ones_like(low)
    offsets, errors = torch.zeros_like(steps), torch.full_like(steps, float("inf"))
    for share in SHARES:
        step = whole_steps(share * (high - low) / groups.top, groups)
        offset, error = _offset_and_error(values, weights, step, (low + high) / 2, groups)
        wins = error < errors
        for best, tried in ((steps, step), (offsets, offset), (errors, error)):
            best.copy_(torch.where(wins, tried, best))
    return steps, offsets, errors


def whole_steps(steps: Tensor, groups: Groups) -> Tensor:
    """The nearest steps that fit in int8; even ones where the points lie at odd half steps."""
    stride = 2 if groups.top % 2 and not groups.asymmetric else 1
    return (steps / stride).round_().clamp_(1, 2 * LARGEST // groups.top // stride).mul_(stride)


def _offset_and_error(
    values: Tensor, weights: Tensor, step: Tensor, middle: Tensor, groups: Groups
) -> tuple[Tensor, Tensor]:
    """For the steps of groups (out, groups) the offsets and squared errors; `middle` is where the values lie."""
    span = step * groups.top
    if not groups.asymmetric:
        offset = -(span / 2).floor()
        return offset, _error(values, weights, step, offset, groups.top)
    offset = (middle - span / 2).round_().clamp_(-LARGEST).minimum(LARGEST - span)
    codes = ((values - offset[..., None]) / step[..., None]).round_().clamp_(0, groups.top)
    left = codes.mul_(-step[..., None]).add_(values).mul_(weights)  # the best offset for these codes
    offset = (left.sum(-1) / weights.sum(-1).clamp_min(1e-30)).round_().clamp_(-LARGEST).minimum(LARGEST - span)
    return offset, _error(values, weights, step, offset, groups.top)


def _error(values: Tensor, weights: Tensor, step: Tensor, offset: Tensor, top: int) -> Tensor:
    step, offset = step[..., None], offset[..., None]
    codes = ((values - offset) / step).round_().clamp_(0, top)
    return codes.mul_(step).add_(offset).sub_(values).square_().mul_(weights).sum(-1)


def _grouped(x: Tensor, groups: Groups) -> Tensor:
    """(out, n) as (out, groups, size); the last group is filled up with its last column."""
    columns = x.shape[1]
    size, count = groups.size(columns), groups.count(columns)
    index = torch.arange(count * size).clamp_max(columns - 1)
    return x[:, index].view(len(x), count, size).float()
