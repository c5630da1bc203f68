"""A site as in plan.json: one flat object, which people can edit.

A choice and its entry are two forms of one thing: `to_entry` and `decided` convert them. An edited entry may leave
out what follows from the rest, or contradict itself; a choice cannot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from ..numerics.weight_grid import WeightFormat
from ..weight_formats.base import weight_format
from .choice import Choice, InFloat, InputChoice, LayerChoice, Measured, Quantized, WeightChoice

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """The fields in the order of the file; each says what the field of a choice does that has its name."""

    layer: str
    kind: str
    reason: str | None = None  # the site stays in float, whatever else is here
    weight_bits: int | None = None
    weight_group: int | None = None
    weight_asymmetric: bool | None = None
    weight_sparsity: str | None = None
    weight_count: int | None = None
    weight_bytes: int | None = None
    weight_method: str | None = None
    weight_sqnr_db: float | None = None
    rounding: str | None = None
    input_bits: int | None = None
    method: str | None = None
    clip_percent: float | None = None
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    mid_rise: bool | None = None
    clipped_share: float | None = None
    input_sqnr_db: float | None = None
    probe_score: float | None = None

    @property
    def format(self) -> WeightFormat:
        """Of the weight; ValueError where what is said of it contradicts itself."""
        bits = needed("weight_bits", self.weight_bits)
        return weight_format(bits, self.weight_group, bool(self.weight_asymmetric), self.weight_sparsity)

    @property
    def bits(self) -> str:
        """Formats of weight and input: w8a8, w4g64za8; groups that contradict themselves are left out."""
        try:
            weight = str(self.format)
        except ValueError:
            weight = f"w{self.weight_bits}"
        return weight if self.input_bits is None else f"{weight}a{self.input_bits}"


def needed(name: str, value: T | None) -> T:
    """The value of a field; ValueError where it was left out."""
    if value is None:
        raise ValueError(f"has no {name}")
    return value


def to_entry(choice: Choice) -> Entry:
    """A choice as the file has it."""
    if isinstance(choice, InFloat):
        return Entry(choice.layer, choice.kind, choice.reason)
    weight, measured = choice.weight, choice.measured
    entry = Entry(
        layer=choice.layer,
        kind=choice.kind,
        weight_bits=weight.format.bits,
        weight_group=weight.format.group,
        weight_asymmetric=weight.format.asymmetric or None,
        weight_sparsity=None if weight.format.sparsity is None else str(weight.format.sparsity),
        weight_count=weight.count,
        weight_bytes=weight.bytes,
        weight_method=weight.method,
        weight_sqnr_db=measured.weight_sqnr_db,
        rounding=weight.rounding,
        clipped_share=measured.clipped_share,
        input_sqnr_db=measured.input_sqnr_db,
        probe_score=measured.probe_score,
    )
    return entry if choice.input is None else _with_input(entry, choice.input)


def decided(entry: Entry) -> Choice:
    """The choice in an entry; ValueError if something is left out or contradicts itself."""
    if entry.reason is not None:
        return InFloat(entry.layer, entry.kind, entry.reason)
    weight = WeightChoice(
        entry.format,
        needed("weight_method", entry.weight_method),
        needed("rounding", entry.rounding),
        needed("weight_count", entry.weight_count),
        needed("weight_bytes", entry.weight_bytes),
    )
    measured = Measured(entry.weight_sqnr_db, entry.clipped_share, entry.input_sqnr_db, entry.probe_score)
    return Quantized(entry.layer, entry.kind, weight, _input(entry), measured)


def said(entry: Entry | LayerChoice) -> dict[str, object]:
    """The fields that say something."""
    return {name: value for name, value in asdict(entry).items() if value is not None and value != ()}


def _with_input(entry: Entry, choice: InputChoice) -> Entry:
    return replace(
        entry,
        input_bits=choice.bits,
        method=choice.method,
        clip_percent=choice.clip_percent,
        low=choice.low,
        high=choice.high,
        scale=choice.scale,
        zero_point=choice.zero_point,
        mid_rise=choice.mid_rise or None,
    )


def _input(entry: Entry) -> InputChoice | None:
    fields = (entry.method, entry.clip_percent, entry.low, entry.high, entry.scale, entry.zero_point, entry.mid_rise)
    if entry.input_bits is None and all(each is None for each in fields):
        return None
    return InputChoice(
        needed("input_bits", entry.input_bits),
        entry.method,
        entry.clip_percent,
        needed("low", entry.low),
        needed("high", entry.high),
        needed("scale", entry.scale),
        needed("zero_point", entry.zero_point),
        bool(entry.mid_rise),
    )
