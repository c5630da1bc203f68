"""StableQuant (ICASSP 2025, arXiv 2504.14915, section 3): percentile and MSE ranges mixed layer by layer.

1. Quantize one layer at a time with max ranges. The layers that lose more than the threshold form S.
2. For each layer of S search the share of its largest input values to remove, 0 to 0.5 % in steps of 0.01 %.
3. Range of least squared error for every layer, on the histogram without the removed values for S.
4. Not in the paper: whether zero is a code of the first convolution's input, or lies between two (integer_grid.py).

Step 4 is about silence. There the first layers' outputs are smaller than half a step, so all of them would become 0,
and the later layers, which amplify them, would get a different input; this shows only when all layers are quantized
(scripts/LOG.md).

The paper needs a WER run over the whole set for every layer and every candidate. Here a probe recomputes only what
follows the layer, and the search runs on a coarse grid, then around the best point, on as many of the probe recordings
as the budget of float passes allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...foundation.options import CalibrateOptions
from ..plan.choice import Choice, InFloat, LayerChoice, Quantized
from ..plan.plan import Plan
from ..search.scores import Trial
from ..search.session import SearchSession
from .base import Planner

BUDGET = 38.0  # float passes over the probe recordings, for ranges; rounding has its own
COARSE = (0.0, 0.01, 0.03, 0.07, 0.15, 0.30, 0.50)  # % of the values
STEP = 0.01  # %
REFINED = 4  # candidates tried between the neighbours of the best coarse one

Candidates = dict[str, dict[float, float]]  # layer -> removed share in % -> score


class Stable(Planner):
    """The paper's."""

    def plan(self, session: SearchSession) -> Plan:
        lost = probe(session)
        selected = {layer for layer, points in lost.items() if points > session.options.threshold}
        found = search(session, selected)
        clip = {layer: min(scores, key=lambda share: (scores[share], share)) for layer, scores in found.items()}
        layers = {layer: _explain(layer, points, session, clip, found) for layer, points in lost.items()}
        choices = {site.name: session.choices.choose(site, "mse", clip.get(site.layer)) for site in session.sites}
        return session.plan(*place_zero(session, choices, layers))


def planner(options: CalibrateOptions) -> Planner:
    return Stable()


def probe(session: SearchSession) -> dict[str, float]:
    """Step 1: what each layer loses when it alone is quantized with max ranges, in points."""
    return session.trials.run("probe", [_trial(session, layer, "max") for layer in session.layers])


def search(session: SearchSession, selected: set[str]) -> Candidates:
    """Step 2: the score of the candidates for each selected layer, the layer alone with its final kind of range."""
    order = [layer for layer in session.layers if layer in selected]
    found: Candidates = {layer: {} for layer in order}
    affordable, recordings = _affordable(session, order), len(session.trials.recordings)
    part = min(1.0, affordable / (len(COARSE) + REFINED))
    if part * recordings >= 1:
        _try(session, "search", dict.fromkeys(order, COARSE), found, part)
        _try(session, "refine", {layer: _between(found[layer]) for layer in order}, found, part)
    else:  # not even one recording for all candidates: fewer of them, and the best of those is not refined
        _try(session, "search", dict.fromkeys(order, _thinned(int(affordable * recordings))), found, part)
    return found


def place_zero(
    session: SearchSession, choices: dict[str, Choice], layers: dict[str, LayerChoice]
) -> tuple[dict[str, Choice], dict[str, LayerChoice]]:
    """Step 4: choices and explanations, with a mid-rise grid for the first site where the whole scores better so."""
    first = next(site for site in session.sites if isinstance(choices[site.name], Quantized))
    if not first.unpadded_conv or not _has_negatives(choices[first.name]):
        return choices, layers

    def with_zero(of: Mapping[str, Choice]) -> dict[str, Choice]:
        return {**of, first.name: _mid_rise(session, first.name, of[first.name])}

    tried = session.choices.in_trial(choices)
    trials = [
        Trial(name, first.layer, found, session.trials.weights(found))
        for name, found in (("mid-tread", tried), ("mid-rise", with_zero(tried)))
    ]
    scores = session.trials.run("zero", trials)
    tread, rise = scores["mid-tread"], scores["mid-rise"]
    better = rise < tread
    said = f"; with zero {'between two codes' if better else 'a code'} the whole plan loses {min(tread, rise):.3f}"
    why = f"{layers[first.layer].why}{said}, else {max(tread, rise):.3f}"
    layers = {**layers, first.layer: replace(layers[first.layer], why=why)}
    return with_zero(choices) if better else choices, layers


def _has_negatives(choice: Choice) -> bool:
    """Whether zero lies above the first code."""
    return isinstance(choice, Quantized) and choice.input is not None and choice.input.zero_point > 0


def _mid_rise(session: SearchSession, name: str, choice: Choice) -> Choice:
    if isinstance(choice, InFloat) or choice.input is None:
        return choice
    return session.choices.measured(replace(choice, input=replace(choice.input, mid_rise=True)), name)


def _try(
    session: SearchSession, stage: str, shares: dict[str, tuple[float, ...]], found: Candidates, part: float
) -> None:
    trials = {
        (layer, share): _trial(session, layer, "mse", share) for layer, tried in shares.items() for share in tried
    }
    scores = session.trials.run(stage, list(trials.values()), part)
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


def _trial(session: SearchSession, layer: str, method: str, clip: float | None = None) -> Trial:
    here = [site for site in session.sites if site.layer == layer]
    choices = {site.name: session.choices.choose(site, method, clip, trial=True) for site in here}
    key = layer if clip is None else f"{layer} {clip:.2f}"
    return Trial(key, layer, choices, session.trials.weights(choices))


def _explain(
    layer: str, points: float, session: SearchSession, clip: dict[str, float], found: Candidates
) -> LayerChoice:
    selected = layer in clip
    why = (
        f"max ranges here alone lose {points:.3f} points, {'more' if selected else 'not more'} "
        f"than the threshold {session.options.threshold:g}"
    )
    if selected:
        why += f"; of the shares tried, removing {clip[layer]:.2f} % loses least ({found[layer][clip[layer]]:.3f})"
    return LayerChoice(selected, why, round(points, 6), clip.get(layer), tuple(sorted(found.get(layer, {}).items())))


def _affordable(session: SearchSession, selected: Sequence[str]) -> float:
    """How many candidates per selected layer the budget allows on all the probe recordings."""
    left = BUDGET - session.passes.spent - 2  # the score of the whole plan comes after
    left -= 5  # the float model, once for each of three stages, and two whole plans in the last of them
    return max(0.0, left / max(1e-9, sum(session.passes.suffix(layer) for layer in selected)))
