"""StableQuant (ICASSP 2025, arXiv 2504.14915, section 3): percentile and MSE ranges mixed layer by layer.

1. Quantize one layer at a time with max ranges. The layers that lose more than the threshold form S.
2. For each layer of S search the share of its largest input values to remove, 0 to 0.5 % in steps of 0.01 %.
3. Range of least squared error for every layer, on the histogram without the removed values for S.
4. Not in the paper: whether zero is a code of the first convolution's input, or lies between two (grid.py).

Step 4 is about silence. There the first layers' outputs are smaller than half a step, all of them would be 0, and the
layers behind, which amplify them, would hear another silence; that shows only when all are quantized (scripts/LOG.md).

The paper spends a WER run over the whole set on every layer and every candidate. Here a probe recomputes only what
follows the layer, and the search runs on a coarse grid, then around the best, on as many of the probe's recordings as
the budget of float passes allows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..plan.choice import Choice, LayerChoice
from ..plan.plan import Plan
from ..search.scores import Trial

if TYPE_CHECKING:
    from ..search.session import Calibration

COARSE = (0.0, 0.01, 0.03, 0.07, 0.15, 0.30, 0.50)  # % of the values
STEP = 0.01  # %
REFINED = 4  # candidates tried between the neighbours of the best coarse one

Candidates = dict[str, dict[float, float]]  # layer -> removed share in % -> score


def plan(calibration: Calibration) -> Plan:
    """The plan of the paper for a calibrated model."""
    lost = probe(calibration)
    selected = {layer for layer, points in lost.items() if points > calibration.threshold}
    found = search(calibration, selected)
    clip = {layer: min(scores, key=lambda share: (scores[share], share)) for layer, scores in found.items()}
    layers = {layer: _explain(layer, points, calibration, clip, found) for layer, points in lost.items()}
    choices = {site.name: calibration.choose(site, "mse", clip.get(site.layer)) for site in calibration.sites}
    return calibration.plan(*place_zero(calibration, choices, layers))


def probe(calibration: Calibration) -> dict[str, float]:
    """Step 1: what each layer loses when it alone is quantized with max ranges, in points."""
    return calibration.run("probe", [_trial(calibration, layer, "max") for layer in calibration.layers])


def search(calibration: Calibration, selected: set[str]) -> Candidates:
    """Step 2: the score of the candidates for each selected layer, the layer alone with its final kind of range."""
    order = [layer for layer in calibration.layers if layer in selected]
    found: Candidates = {layer: {} for layer in order}
    affordable, recordings = calibration.affordable(order), len(calibration.probe_recordings)
    part = min(1.0, affordable / (len(COARSE) + REFINED))
    if part * recordings >= 1:
        _try(calibration, "search", dict.fromkeys(order, COARSE), found, part)
        _try(calibration, "refine", {layer: _between(found[layer]) for layer in order}, found, part)
    else:  # not even one recording for all candidates: fewer of them, and the best of those is not refined
        _try(calibration, "search", dict.fromkeys(order, _thinned(int(affordable * recordings))), found, part)
    return found


def place_zero(
    calibration: Calibration, choices: dict[str, Choice], layers: dict[str, LayerChoice]
) -> tuple[dict[str, Choice], dict[str, LayerChoice]]:
    """Step 4: choices and explanations, with a mid-rise grid for the first site where the whole scores better so."""
    first = next(site for site in calibration.sites if choices[site.name].quantized)
    if not first.unpadded_conv or not choices[first.name].zero_point:
        return choices, layers

    def with_zero(of: dict[str, Choice]) -> dict[str, Choice]:
        return {**of, first.name: calibration.measured(replace(of[first.name], mid_rise=True), first.name)}

    tried = calibration.in_trial(choices)
    trials = [
        Trial(name, first.layer, found, calibration.weights(found))
        for name, found in (("mid-tread", tried), ("mid-rise", with_zero(tried)))
    ]
    scores = calibration.run("zero", trials)
    tread, rise = scores["mid-tread"], scores["mid-rise"]
    better = rise < tread
    said = f"; with zero {'between two codes' if better else 'a code'} the whole plan loses {min(tread, rise):.3f}"
    why = f"{layers[first.layer].why}{said}, else {max(tread, rise):.3f}"
    layers = {**layers, first.layer: replace(layers[first.layer], why=why)}
    return with_zero(choices) if better else choices, layers


def _try(
    calibration: Calibration, stage: str, shares: dict[str, tuple[float, ...]], found: Candidates, part: float
) -> None:
    trials = {
        (layer, share): _trial(calibration, layer, "mse", share) for layer, tried in shares.items() for share in tried
    }
    scores = calibration.run(stage, list(trials.values()), part)
    for (layer, share), trial in trials.items():
        found[layer][share] = scores[trial.key]


def _thinned(count: int) -> tuple[float, ...]:
    """At least one and at most `count` of the coarse shares, evenly spread."""
    places = np.linspace(0, len(COARSE) - 1, max(1, count) + 2)[1:-1]
    return tuple(sorted({COARSE[round(place)] for place in places}))


def _between(scores: dict[float, float]) -> tuple[float, ...]:
    """Up to REFINED untried shares, evenly spread between the neighbours of the best one."""
    tried = sorted(scores)
    at = tried.index(min(tried, key=lambda share: (scores[share], share)))
    first, last = tried[max(0, at - 1)], tried[min(len(tried) - 1, at + 1)]
    grid = [round(i * STEP, 2) for i in range(round(first / STEP), round(last / STEP) + 1)]
    untried = [share for share in grid if share not in scores]
    stride = max(1, -(-len(untried) // REFINED))
    return tuple(untried[stride // 2 :: stride])


def _trial(calibration: Calibration, layer: str, method: str, clip: float | None = None) -> Trial:
    here = [site for site in calibration.sites if site.layer == layer]
    choices = {site.name: calibration.choose(site, method, clip, trial=True) for site in here}
    key = layer if clip is None else f"{layer} {clip:.2f}"
    return Trial(key, layer, choices, calibration.weights(choices))


def _explain(
    layer: str, points: float, calibration: Calibration, clip: dict[str, float], found: Candidates
) -> LayerChoice:
    selected = layer in clip
    why = (
        f"max ranges here alone lose {points:.3f} points, {'more' if selected else 'not more'} "
        f"than the threshold {calibration.threshold:g}"
    )
    if selected:
        why += f"; of the shares tried, removing {clip[layer]:.2f} % loses least ({found[layer][clip[layer]]:.3f})"
    return LayerChoice(selected, why, round(points, 6), clip.get(layer), tuple(sorted(found.get(layer, {}).items())))
