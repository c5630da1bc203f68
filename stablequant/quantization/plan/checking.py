"""Whether an entry of a plan contradicts itself."""

from __future__ import annotations

import math

from ..numerics.activation_grid import affine
from ..numerics.weight_grid import DENSE_BITS
from .choice import Choice


def choice_problem(choice: Choice) -> str | None:
    """What contradicts itself in one entry, in words; None when nothing does."""
    for name in ("weight_bits", "input_bits"):
        if getattr(choice, name) not in range(2, 9):
            return f"{name} is {getattr(choice, name)}; 2 to 8 are possible"
    if not choice.weight_format.dense and (choice.weight_group or choice.weight_asymmetric):
        return f"weight_group and weight_asymmetric are for {DENSE_BITS} bits and fewer; delete them"
    if choice.weight_group is not None and choice.weight_group < 1:
        return f"weight_group is {choice.weight_group}; give 32, 64 or 128, or delete it for one group a row"
    if choice.clip_percent is not None and not 0 <= choice.clip_percent < 100:
        return f"clip_percent is {choice.clip_percent:g}; give a share from 0 to below 100"
    if choice.low is None or choice.high is None:
        alone = [each for each in ("low", "high", "scale", "zero_point") if getattr(choice, each) is not None]
        return f"has {alone[0]} but not both low and high; give both, or none of them" if alone else None
    if choice.low > choice.high:
        return f"low {choice.low:g} is above high {choice.high:g}; give a range"
    if not choice.low <= 0 <= choice.high:
        return f"the range from {choice.low:g} to {choice.high:g} does not hold 0, which has to be exact; widen it"
    return _scale_problem(choice, choice.low, choice.high)


def _scale_problem(choice: Choice, low: float, high: float) -> str | None:
    scale, zero_point = affine(low, high, choice.input_grid)
    if not math.isfinite(scale):
        return f"the range from {low:g} to {high:g} is too wide for float32; give a narrower one"
    scale_fits = choice.scale is None or math.isclose(choice.scale, scale, rel_tol=1e-6)
    if scale_fits and choice.zero_point in (None, zero_point):
        return None
    found = f"scale {choice.scale} and zero_point {choice.zero_point}"
    return (
        f"{found} do not fit low {low:g} and high {high:g} (scale {scale} and zero_point {zero_point} do); "
        "delete scale and zero_point to have them computed"
    )
