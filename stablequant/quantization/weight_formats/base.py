"""The format that a text or the fields of plan.json mean, among the files of this folder."""

from __future__ import annotations

from functools import cache
from typing import Protocol, cast

from ...foundation import registry
from ...foundation.errors import InputError
from ..numerics.weight_grid import WeightFormat


class FormatFile(Protocol):
    """A file of this folder; its functions are described in __init__.py."""

    def of(self, bits: int, group: int | None, asymmetric: bool, sparsity: str | None) -> WeightFormat | None: ...
    def parse(self, text: str) -> WeightFormat | None: ...


@cache
def format_files() -> tuple[FormatFile, ...]:
    """Every file of this folder."""
    return tuple(cast(FormatFile, registry.get("weight_formats", name)) for name in registry.names("weight_formats"))


def parse(text: str) -> WeightFormat:
    """The format in a text that `str` wrote; InputError for anything else."""
    for file in format_files():
        if (found := file.parse(text)) is not None:
            return found
    raise InputError(f"weight format {text!r} is not of a form like w8, w4g64, w2g32z or w4g64-2:4")


def weight_format(
    bits: int, group: int | None = None, asymmetric: bool = False, sparsity: str | None = None
) -> WeightFormat:
    """The format with these settings; ValueError, with the names of plan.json, if there is none."""
    for file in format_files():
        if (found := file.of(bits, group, asymmetric, sparsity)) is not None:
            return found
    raise ValueError(f"weight_bits is {bits}; it must be 2 to 8")
