"""The grid on which a weight of few bits has the least squared error, searched group by group."""

from __future__ import annotations

import torch
from torch import Tensor

from .weight_grid import LARGEST, WeightFormat, WeightGrid

REACHES = (1.0, 0.8)  # of the row's largest weight, that the int8 codes may reach
CHUNK = 1 << 18  # weights that are searched together: their sums stay in cache
SHARES = tuple(1.0 - 0.05 * n for n in range(14))  # of the range of a group, that its points may cover


def fit(weight: Tensor, format: WeightFormat, importance: Tensor | None = None) -> WeightGrid:
    """The grid of a packed format on which a weight (out, n) has the least squared error.

    `importance` (n,) weighs the columns: the second moments of the inputs, which make it the error of the output if
    inputs were uncorrelated. Searched are the clip of each group (SHARES), which its step is, and that of the row.
    """
    columns = weight.shape[1]
    power = torch.ones(columns) if importance is None else importance / importance.mean().clamp_min(1e-30)
    found = [_fit(rows, power, format) for rows in weight.float().split(max(1, CHUNK // columns))]
    scale, steps, offsets = (torch.cat(each) for each in zip(*found, strict=True))
    group = torch.arange(columns) // format.size(columns)
    return WeightGrid(format, group, scale, steps.to(torch.uint8), offsets.to(torch.int8))


def _fit(weight: Tensor, power: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (out,), steps and offsets (out, groups), all float32, for some rows."""
    values, weights = _grouped(weight, format), _grouped(power[None], format)
    largest = weight.abs().amax(1)
    best: tuple[Tensor, ...] | None = None
    for reach in REACHES:
        scale = torch.where(largest > 0, largest * (reach / LARGEST), torch.ones_like(largest))
        found = (scale, *_search(values / scale[:, None, None], weights, format))
        error = found[3].sum(1) * scale.square()
        best = (*found[:3], error) if best is None else _better(best, (*found[:3], error))
    assert best is not None
    return best[0], best[1], best[2]


def _better(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Row by row the fit with the smaller error, the last of each tuple (out,)."""
    b_wins = b[-1] < a[-1]
    return tuple(torch.where(b_wins if x.ndim == 1 else b_wins[:, None], y, x) for x, y in zip(a, b, strict=True))


def _search(values: Tensor, weights: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor, Tensor]:
    """Steps, offsets and errors (out, groups) for values (out, groups, size) in units of the scale."""
    low, high = values.amin(-1), values.amax(-1)
    if not format.asymmetric:
        high = torch.maximum(-low, high)
        low = -high
    steps = torch.ones_like(low)
    offsets, errors = torch.zeros_like(steps), torch.full_like(steps, float("inf"))
    for share in SHARES:
        step = _whole_steps(share * (high - low) / format.top, format)
        offset, error = _offset_and_error(values, weights, step, (low + high) / 2, format)
        wins = error < errors
        for best, tried in ((steps, step), (offsets, offset), (errors, error)):
            best.copy_(torch.where(wins, tried, best))
    return steps, offsets, errors


def _whole_steps(steps: Tensor, format: WeightFormat) -> Tensor:
    """The nearest steps that fit in int8; even ones where the points lie at odd half steps."""
    stride = 2 if format.top % 2 and not format.asymmetric else 1
    return (steps / stride).round_().clamp_(1, 2 * LARGEST // format.top // stride).mul_(stride)


def _offset_and_error(
    values: Tensor, weights: Tensor, step: Tensor, middle: Tensor, format: WeightFormat
) -> tuple[Tensor, Tensor]:
    """For the steps of groups (out, groups) the offsets and squared errors; `middle` is where the values lie."""
    span = step * format.top
    if not format.asymmetric:
        offset = -(span / 2).floor()
        return offset, _error(values, weights, step, offset, format.top)
    offset = (middle - span / 2).round_().clamp_(-LARGEST).minimum(LARGEST - span)
    codes = ((values - offset[..., None]) / step[..., None]).round_().clamp_(0, format.top)
    left = codes.mul_(-step[..., None]).add_(values).mul_(weights)  # the best offset for these codes
    offset = (left.sum(-1) / weights.sum(-1).clamp_min(1e-30)).round_().clamp_(-LARGEST).minimum(LARGEST - span)
    return offset, _error(values, weights, step, offset, format.top)


def _error(values: Tensor, weights: Tensor, step: Tensor, offset: Tensor, top: int) -> Tensor:
    step, offset = step[..., None], offset[..., None]
    codes = ((values - offset) / step).round_().clamp_(0, top)
    return codes.mul_(step).add_(offset).sub_(values).square_().mul_(weights).sum(-1)


def _grouped(x: Tensor, format: WeightFormat) -> Tensor:
    """(out, n) as (out, groups, size); what is missing of the last group is filled with its last column."""
    columns = x.shape[1]
    size, groups = format.size(columns), format.groups(columns)
    index = torch.arange(groups * size).clamp_max(columns - 1)
    return x[:, index].view(len(x), groups, size).float()
