"""The Plan: for every site its bits, range and rounding, with the evidence; one frozen value, plain JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from .choice import Choice, LayerChoice, Quantized
from .plan_file import PLAN_FILE, SCHEMA, Draft, read_draft
from .site_entry import decided, to_entry

__all__ = ["PLAN_FILE", "Plan", "read_plan"]


@dataclass(frozen=True)
class Plan:
    """The decisions for a whole model."""

    scheme: str
    method: str
    sites: dict[str, Choice]
    layers: dict[str, LayerChoice] = field(default_factory=dict)
    score: JsonObject = field(default_factory=dict)  # name, unit, threshold, of the whole plan
    calibration: JsonObject = field(default_factory=dict)  # recordings, hashes, seed, float passes
    schema: int = SCHEMA

    def quantized(self) -> dict[str, Quantized]:
        return {name: choice for name, choice in self.sites.items() if isinstance(choice, Quantized)}

    def average_bits(self) -> float:
        """Bits of a quantized weight on disk, all scales counted."""
        weights = [choice.weight for choice in self.quantized().values()]
        return 8 * sum(each.bytes for each in weights) / sum(each.count for each in weights)

    def to_json(self) -> str:
        """As plan.json has it."""
        return Draft(**{**vars(self), "sites": {name: to_entry(each) for name, each in self.sites.items()}}).to_json()

    @staticmethod
    def from_json(text: str, source: str = "plan") -> Plan:
        """Read a plan; InputError names what is wrong in `source`."""
        return of_draft(Draft.from_json(text, source), source)


def of_draft(draft: Draft, source: str) -> Plan:
    """A plan in which everything is decided; InputError where something was left out, or contradicts itself."""
    sites: dict[str, Choice] = {}
    for name, entry in draft.sites.items():
        try:
            sites[name] = decided(entry)
        except ValueError as error:
            raise InputError(f"{source}: {name}: {error}") from error
    return Plan(**{**vars(draft), "sites": sites})


def read_plan(path: Path) -> Plan:
    """The plan in a file, or in a folder that `sfm-quant calibrate` wrote."""
    return of_draft(read_draft(path), str(path / PLAN_FILE if path.is_dir() else path))
