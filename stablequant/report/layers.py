"""The plan by layer, extractor first: what the probe found, what was chosen, and how exact and large it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..quantization.observation.histogram import Histogram
from ..quantization.plan.choice import InFloat, InputChoice, LayerChoice, Measured, Quantized
from ..quantization.plan.plan import Plan

UNSEEN = LayerChoice(selected=False, why="")


@dataclass(frozen=True)
class Layer:
    name: str
    probe_score: float | None
    selected: bool
    why: str
    methods: str  # range methods of its inputs, or "float"
    bits: str  # "w8a8", or "float"
    removed_percent: float | None  # the largest values, before the range was searched
    input_sqnr_db: float | None  # of its weakest site
    weight_sqnr_db: float | None  # likewise
    bytes: int | None


@dataclass(frozen=True)
class Seen:
    """The inputs of one or more sites of a layer that read the same values with the same range."""

    layer: str
    sites: tuple[str, ...]
    read: InputChoice
    measured: Measured
    histogram: Histogram


def layers(plan: Plan, sizes: Mapping[str, int]) -> list[Layer]:
    """A row for each layer of the plan in forward order; `sizes` are bytes by layer."""
    names = dict.fromkeys(choice.layer for choice in plan.sites.values())
    return [_layer(plan, name, sizes.get(name)) for name in names]


def seen(plan: Plan, histograms: Mapping[str, Histogram]) -> list[Seen]:
    """The input histograms of the quantized sites, in forward order; q, k and v share one."""
    found: dict[tuple[object, ...], Seen] = {}
    for name, choice in plan.quantized().items():
        read = choice.input
        if name in histograms and read is not None:
            h = histograms[name]
            same = (choice.layer, read.low, read.high, h.minimum, h.maximum, h.counts.tobytes())
            before = found[same].sites if same in found else ()
            found[same] = Seen(choice.layer, (*before, name), read, choice.measured, h)
    return list(found.values())


def short(name: str) -> str:
    """A module's name without the model's and the blocks that every model of the family has."""
    parts = name.split(".")
    kept = [part for part in parts[1:] if part not in ("feature_extractor", "encoder")]
    return ".".join(kept) or name


def _layer(plan: Plan, name: str, size: int | None) -> Layer:
    probed = plan.layers.get(name, UNSEEN)
    choices = [choice for choice in plan.quantized().values() if choice.layer == name]
    inputs = [choice.input for choice in choices if choice.input is not None]
    removed = [read.clip_percent for read in inputs if read.clip_percent is not None]
    reasons = (c.reason for c in plan.sites.values() if isinstance(c, InFloat) and c.layer == name)
    return Layer(
        name=short(name),
        probe_score=probed.probe_score,
        selected=probed.selected,
        why=probed.why or next(reasons, ""),
        methods=_all(read.method or "by hand" for read in inputs),
        bits=_all(bits_of(choice) for choice in choices),
        removed_percent=max(removed, default=None),
        input_sqnr_db=_least(choice.measured.input_sqnr_db for choice in choices),
        weight_sqnr_db=_least(choice.measured.weight_sqnr_db for choice in choices),
        bytes=size,
    )


def bits_of(choice: Quantized) -> str:
    """w8a8, without the groups of the weights."""
    return f"w{choice.weight.format.bits}" + ("" if choice.input is None else f"a{choice.input.bits}")


def _all(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or "float"


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
