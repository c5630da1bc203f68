"""The plots of the page, each with its title and a sentence that says how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..quantization.plan.plan import Plan
from .layers import Layer, Seen, short
from .lost_words import Group
from .plots import bars, histogram


@dataclass(frozen=True)
class Panel:
    title: str
    about: str
    svg: str  # "" when there is nothing to draw


@dataclass(frozen=True)
class Histograms:
    """Of one layer; `open` is the one that the page shows at once."""

    layer: str
    panels: tuple[Panel, ...]
    open: bool


def of_layers(plan: Plan, layers: Sequence[Layer]) -> Iterator[Panel]:
    """Probe score, method with removed share, signal to noise, bytes with bits; each over all layers."""
    unit, limit = plan.score.get("unit", "points"), plan.score.get("threshold")
    scores = [layer.probe_score for layer in layers]
    yield _bars(
        Panel("Loss of each layer alone", f"Probe score: {unit}. Layers beyond the dashed line are selected.", ""),
        layers,
        {"score": scores},
        ["" if score is None else f"{score:.2f}" for score in scores],
        limit,
    )
    yield _bars(
        Panel(
            "Range method, and values removed before it", "Largest values, in %. A name without a number: none.", ""
        ),
        layers,
        {"removed": [layer.removed_percent or 0.0 for layer in layers]},
        [
            f"{layer.methods} {layer.removed_percent:.2f}" if layer.removed_percent else layer.methods
            for layer in layers
        ],
    )
    yield _bars(
        Panel("Signal to quantization noise", "dB of the weakest site of each layer. More is better.", ""),
        layers,
        {"weights": [layer.weight_sqnr_db for layer in layers], "inputs": [layer.input_sqnr_db for layer in layers]},
        ["" if layer.input_sqnr_db is None else f"{layer.input_sqnr_db:.0f}" for layer in layers],
    )
    yield _bars(
        Panel("Bytes and bits", "kB of weights on disk. w: bits of the weights, a: of the inputs.", ""),
        layers,
        {"kB": [None if layer.bytes is None else layer.bytes / 1000 for layer in layers]},
        [layer.bits for layer in layers],
    )


def of_groups(title: str, groups: Sequence[Group], models: Sequence[str]) -> Panel:
    series = {model: [group.wer[place] for group in groups] for place, model in enumerate(models)}
    notes = [f"{group.wer[-1]:.1f}" for group in groups]
    return Panel(title, "", bars(title, [group.name for group in groups], series, notes) if groups else "")


def of_time(split: Mapping[str, float]) -> Panel:
    """`split` is milliseconds by part."""
    title, whole = "Milliseconds by part", sum(split.values())
    notes = [f"{each:.1f} ms, {100 * each / whole:.0f} %" for each in split.values()]
    return Panel(title, "", bars(title, list(split), {"ms": list(split.values())}, notes))


def of_histograms(found: Sequence[Seen], layers: Sequence[Layer]) -> list[Histograms]:
    """By layer in forward order; open is the one that loses most alone."""
    scores = {layer.name: layer.probe_score or 0.0 for layer in layers}
    by_layer: dict[str, list[Panel]] = {}
    for each in found:
        by_layer.setdefault(short(each.layer), []).append(_histogram(each))
    most = max(by_layer, key=lambda name: scores.get(name, 0.0), default=None)
    return [Histograms(name, tuple(panels), name == most) for name, panels in by_layer.items()]


def _bars(
    panel: Panel,
    layers: Sequence[Layer],
    series: Mapping[str, Sequence[float | None]],
    notes: Sequence[str],
    limit: float | None = None,
) -> Panel:
    if all(value is None for values in series.values() for value in values):
        return panel
    names = [layer.name for layer in layers]
    return Panel(panel.title, panel.about, bars(panel.title, names, series, notes, limit))


def _histogram(found: Seen) -> Panel:
    read, values = found.read, found.histogram
    title = ", ".join(site.removeprefix(f"{found.layer}.") for site in found.sites)
    about = (
        f"range {read.low:.4g} to {read.high:.4g} ({read.method or 'by hand'}), values {values.minimum:.4g} to "
        f"{values.maximum:.4g}, {100 * (found.measured.clipped_share or 0):.3g} % outside"
    )
    return Panel(title, about, histogram(f"{short(found.layer)}: {title}", values, read))
