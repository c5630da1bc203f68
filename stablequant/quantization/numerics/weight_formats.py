"""The formats of weights: a file each with `parse`, listed here."""

from __future__ import annotations

from ...foundation.errors import InputError
from .weight_grid import WeightFormat
from .weight_packed import MOST_BITS, Packed
from .weight_rows import Rows

FORMATS = (Rows, Packed)


def parse(text: str) -> WeightFormat:
    """The format in a text that `str` wrote; InputError for anything else."""
    for each in FORMATS:
        if (found := each.parse(text)) is not None:
            return found
    raise InputError(f"weight format {text!r} is not of the form w8, w4g64 or w2g32z")


def weight_format(bits: int, group: int | None = None, asymmetric: bool = False) -> WeightFormat:
    """The format with this many bits; ValueError, with the names of plan.json, if there is none."""
    if bits not in range(2, 9):
        raise ValueError(f"weight_bits is {bits}; it must be 2 to 8")
    if bits > MOST_BITS and (group is not None or asymmetric):
        raise ValueError(f"weight_group and weight_asymmetric are for {MOST_BITS} bits and fewer; delete them")
    if group is not None and group < 1:
        raise ValueError(f"weight_group is {group}; write 32, 64 or 128, or delete it for one group per row")
    return Packed(bits, group, asymmetric) if bits <= MOST_BITS else Rows(bits)
