"""Round the weights of a plan layer after layer, each with the inputs that the quantized layers before it give.

A copy of the model turns integer from the front to the back: a layer's Gram matrices are gathered behind the layers
that are integer already, so its rounding makes up for their errors too, its weights are rounded, and it turns integer
itself. One layer's matrices are in memory at a time. Where no rounding asks for them, nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import checkpoint, engine, gram, lattice, registry, sites
from .gram import Gram
from .grid import QTensor, symmetric_scale
from .lattice import Lattice
from .models import Recognizer
from .plan import Choice
from .sites import Site

Rounded = tuple[str, dict[str, QTensor]]  # a layer and the weights of its sites


def round_layers(
    recognizer: Recognizer,
    found: Sequence[Site],
    choices: Mapping[str, Choice],
    recordings: Callable[[str], Iterable[Any]],
) -> Iterator[Rounded]:
    """(layer, weights) for each layer with quantized sites; `recordings` gives the waveforms for a layer."""
    prefix = replace(recognizer, model=checkpoint.shallow_copy(recognizer.model))
    quantized = [site for site in found if site.name in choices]
    last = max((n for n, site in enumerate(quantized) if _needs_gram(choices[site.name])), default=-1)
    for layer in sites.layers(tuple(quantized)):
        here = [site for site in quantized if site.layer == layer]
        seen = _grams(prefix, [site for site in here if _needs_gram(choices[site.name])], layer, recordings)
        weights = {each.name: _round(recognizer, each, choices[each.name], seen.get(each.name)) for each in here}
        if quantized.index(here[-1]) < last:
            engine.convert(prefix.model, {site.name: choices[site.name] for site in here}, weights)
        yield layer, weights


def round_site(weight: Tensor, choice: Choice, seen: Gram | None = None) -> QTensor:
    """The integer weight of a site by its choice, of a canonical weight (out, n)."""
    groups = 1 if seen is None else seen.site.groups
    parts = [_round_group(rows, choice, seen, group) for group, rows in enumerate(weight.chunk(groups))]
    return lattice.joined([points for points, _ in parts]).hold(torch.cat([codes for _, codes in parts]))


def _round_group(weight: Tensor, choice: Choice, seen: Gram | None, group: int) -> tuple[Lattice, Tensor]:
    """The lattice and int8 codes of the rows of one group of a convolution, or of all rows."""
    round_weight = registry.get("rounding", str(choice.rounding)).round_weight
    points = fit(weight, choice, None if seen is None else seen.power(group))
    blocks: Iterable[Any] = [(slice(None), None)] if seen is None else seen.blocks(group)
    codes = [round_weight(weight[:, at], points.columns(at), matrices).codes for at, matrices in blocks]
    return points, torch.cat(codes, 1)


def fit(weight: Tensor, choice: Choice, power: Tensor | None = None) -> Lattice:
    """Where the weights of a site may lie: by its range method, or in groups of least error at 4 bits and fewer."""
    if choice.weight_format.packed:
        return lattice.fit(weight, choice.weight_format, power)
    grid = choice.weight_grid
    limit = registry.get("ranges", str(choice.weight_method)).weights(weight, grid)
    return lattice.channel_lattice(symmetric_scale(limit, grid), grid.bits, weight.shape[1])


def _round(recognizer: Recognizer, site: Site, choice: Choice, seen: Gram | None) -> QTensor:
    return round_site(sites.canonical_weight(recognizer.model.get_submodule(site.name)), choice, seen)


def _needs_gram(choice: Choice) -> bool:
    rounding: ModuleType = registry.get("rounding", str(choice.rounding))
    return bool(rounding.NEEDS_GRAM)


def _grams(
    prefix: Recognizer, found: Sequence[Site], layer: str, recordings: Callable[[str], Iterable[Any]]
) -> dict[str, Gram]:
    return gram.collect(prefix.model, found, prefix.logits, recordings(layer)) if found else {}
