"""Whether an entry of a plan contradicts itself."""

from __future__ import annotations

import math

from ..numerics.integer_grid import affine, unsigned_grid
from .site_entry import Entry, needed


def entry_problem(entry: Entry) -> str | None:
    """The contradiction in one entry, in words; None if there is none."""
    for name, bits in (("weight_bits", entry.weight_bits), ("input_bits", entry.input_bits)):
        if bits not in range(2, 9):
            return f"{name} is {bits}; it must be 2 to 8"
    try:
        entry.format  # noqa: B018 (it raises)
    except ValueError as error:
        return str(error)
    if entry.clip_percent is not None and not 0 <= entry.clip_percent < 100:
        return f"clip_percent is {entry.clip_percent:g}; it must be from 0 to below 100"
    if entry.low is None or entry.high is None:
        alone = [each for each in ("low", "high", "scale", "zero_point") if getattr(entry, each) is not None]
        return f"has {alone[0]} but not both low and high; write both or neither" if alone else None
    if entry.low > entry.high:
        return f"low {entry.low:g} is above high {entry.high:g}; correct the range"
    if not entry.low <= 0 <= entry.high:
        return f"the range from {entry.low:g} to {entry.high:g} does not contain 0, which must be exact; widen it"
    return _scale_problem(entry, entry.low, entry.high)


def _scale_problem(entry: Entry, low: float, high: float) -> str | None:
    scale, zero_point = affine(low, high, unsigned_grid(needed("input_bits", entry.input_bits)))
    if not math.isfinite(scale):
        return f"the range from {low:g} to {high:g} is too wide for float32; use a narrower one"
    scale_fits = entry.scale is None or math.isclose(entry.scale, scale, rel_tol=1e-6)
    if scale_fits and entry.zero_point in (None, zero_point):
        return None
    found = f"scale {entry.scale} and zero_point {entry.zero_point}"
    return (
        f"{found} do not fit low {low:g} and high {high:g} (scale {scale} and zero_point {zero_point} do); "
        "delete scale and zero_point to have them computed"
    )
