"""Round the weights of a plan layer after layer, each with the inputs that the quantized layers before it produce.

A copy of the model is converted to integers from the front to the back: a layer's Gram matrices are collected behind
the layers that are already converted, so its rounding compensates for their errors too; then its weights are rounded
and it is converted itself. Its outputs are kept for the next one (layer_cache.py). Only one layer's matrices and float
weights are in memory at a time. If no rounding needs matrices, nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...engines import onednn, quantized_site
from ...foundation import memory_pages, registry
from ...models import checkpoint
from ...models.recognizer import Recognizer
from ..numerics.weight_grid import Limits, QTensor, WeightGrid, beside, joined
from ..observation import gram
from ..observation.gram import Gram, Matrices
from ..observation.layer_cache import LayerCache
from ..plan.choice import Quantized, WeightChoice
from ..plan.site import Site, canonical_weight, layers_of
from .forward_pass import Passage


class Rounded(NamedTuple):
    """A layer, the weights of its sites, one for each choice, and how often each layer was computed for them."""

    layer: str
    weights: dict[str, list[QTensor]]
    ran: dict[str, int]


def round_layers(
    recognizer: Recognizer,
    found: Sequence[Site],
    choices: Mapping[str, Sequence[Quantized]],
    passages: Callable[[], Iterable[Passage]],
    folder: Path,
    *,
    follow: bool = True,
) -> Iterator[Rounded]:
    """The layers with quantized sites, one after another; their outputs for the recordings are kept in `folder`.

    With `follow`, each layer is converted by the first choice of its sites; otherwise the model stays in float.
    """
    prefix = replace(recognizer, model=checkpoint.shallow_copy(recognizer.model))
    cache = LayerCache(prefix.model, layers_of(tuple(found)), folder)
    quantized = [site for site in found if site.name in choices]
    last = max((n for n, site in enumerate(quantized) if _needs_gram(choices[site.name])), default=-1)
    _release(recognizer.model.parameters())
    for layer in layers_of(tuple(quantized)):
        here = [site for site in quantized if site.layer == layer]
        seen = _grams(prefix, [site for site in here if _needs_gram(choices[site.name])], passages, cache)
        weights = {each.name: _round(recognizer, each, choices[each.name], seen.get(each.name)) for each in here}
        behind = quantized[: quantized.index(here[-1]) + 1]
        _release(recognizer.model.get_submodule(site.name).weight for site in behind)
        if follow and quantized.index(here[-1]) < last:
            first = {name: rounded[0] for name, rounded in weights.items()}
            quantized_site.convert(prefix.model, {name: choices[name][0] for name in first}, first)
            onednn.use_kernels(prefix.model)
        memory_pages.return_freed_memory()
        yield Rounded(layer, weights, dict(cache.ran))
        cache.ran.clear()


def round_site(weight: Tensor, choices: Sequence[Quantized], seen: Gram | None = None) -> list[QTensor]:
    """The integer weight of a site by each of its choices, of a canonical weight (out, n); all round the same way."""
    (rounding,) = {choice.weight.rounding for choice in choices}
    groups = 1 if seen is None else seen.site.groups
    parts = [_round_group(rows, choices, rounding, seen, group) for group, rows in enumerate(weight.chunk(groups))]
    return [
        joined([rows.grid for rows in of_choice]).hold(torch.cat([rows.codes for rows in of_choice]))
        for of_choice in zip(*parts, strict=True)
    ]


def _round_group(
    weight: Tensor, choices: Sequence[Quantized], rounding: str, seen: Gram | None, group: int
) -> list[QTensor]:
    """For each choice, the rows of one group of a convolution, or all rows."""
    power = None if seen is None else seen.power(group)
    points = [fit(weight, choice.weight, power) for choice in choices]
    blocks: Iterable[tuple[slice, Matrices | None]] = [(slice(None), None)] if seen is None else seen.blocks(group)
    round_weight = registry.get("rounding", rounding).round_weight
    rounded = [round_weight(weight[:, at], [each.columns(at) for each in points], matrices) for at, matrices in blocks]
    return [beside(grid, parts) for grid, parts in zip(points, zip(*rounded, strict=True), strict=True)]


def fit(weight: Tensor, choice: WeightChoice, power: Tensor | None = None) -> WeightGrid:
    """Where the weights of a site may lie, as their format and range method say."""
    limits: Limits = registry.get("ranges", choice.method).weights
    return choice.format.fit(weight, limits, power)


def _round(recognizer: Recognizer, site: Site, choices: Sequence[Quantized], seen: Gram | None) -> list[QTensor]:
    weight = canonical_weight(recognizer.model.get_submodule(site.name))
    return round_site(weight, choices, seen)


def _needs_gram(choices: Sequence[Quantized]) -> bool:
    return any(registry.get("rounding", choice.weight.rounding).NEEDS_GRAM for choice in choices)


def _grams(
    prefix: Recognizer, found: Sequence[Site], passages: Callable[[], Iterable[Passage]], cache: LayerCache
) -> dict[str, Gram]:
    """The Gram matrices of sites of one layer."""

    def forward(recording: tuple[int, Passage]) -> None:
        number, passage = recording
        run = lambda: prefix.logits(passage.inputs, passage.forced)  # noqa: E731
        cache.run(number, passage.samples, found[0].layer, run)

    return gram.collect(prefix.model, found, forward, enumerate(passages())) if found else {}


def _release(weights: Iterable[Tensor]) -> None:
    """Return the pages of float weights to the system; those needed again are read from the file."""
    for weight in weights:
        memory_pages.drop_mapped(weight)
