"""The plan by layer, extractor first: what the probe found, what was chosen, and how exact and large it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..quantization.observation.histogram import Histogram
from ..quantization.plan.choice import Choice, LayerChoice
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
    choice: Choice
    histogram: Histogram


def layers(plan: Plan, sizes: Mapping[str, int]) -> list[Layer]:
    """A row for each layer of the plan in forward order; `sizes` are bytes by layer."""
    names = dict.fromkeys(choice.layer for choice in plan.sites.values())
    return [_layer(plan, name, sizes.get(name)) for name in names]


def seen(plan: Plan, histograms: Mapping[str, Histogram]) -> list[Seen]:
    """What the quantized sites saw, in forward order; q, k and v read the same and are shown once."""
    found: dict[tuple[object, ...], Seen] = {}
    for name, choice in plan.quantized().items():
        if name in histograms:
            h = histograms[name]
            same = (choice.layer, choice.low, choice.high, h.minimum, h.maximum, h.counts.tobytes())
            before = found[same].sites if same in found else ()
            found[same] = Seen(choice.layer, (*before, name), choice, h)
    return list(found.values())


def short(name: str) -> str:
    """A module's name without the model's and the blocks that every model of the family has."""
    parts = name.split(".")
    kept = [part for part in parts[1:] if part not in ("feature_extractor", "encoder")]
    return ".".join(kept) or name


def _layer(plan: Plan, name: str, size: int | None) -> Layer:
    probed = plan.layers.get(name, UNSEEN)
    choices = [choice for choice in plan.quantized().values() if choice.layer == name]
    removed = [choice.clip_percent for choice in choices if choice.clip_percent is not None]
    return Layer(
        name=short(name),
        probe_score=probed.probe_score,
        selected=probed.selected,
        why=probed.why or next((str(c.reason) for c in plan.sites.values() if c.layer == name and c.reason), ""),
        methods=_all(str(choice.method) for choice in choices),
        bits=_all(f"w{choice.weight_bits}a{choice.input_bits}" for choice in choices),
        removed_percent=max(removed, default=None),
        input_sqnr_db=_least(choice.input_sqnr_db for choice in choices),
        weight_sqnr_db=_least(choice.weight_sqnr_db for choice in choices),
        bytes=size,
    )


def _all(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or "float"


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
