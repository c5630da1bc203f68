"""The tools of a planner: choices for sites, scores of trials, rounded weights, and their cost in float passes.

All results are stored in the resume state, so that an interrupted calibration can continue.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...foundation import progress
from ...foundation.errors import InputError
from ...foundation.options import CalibrateOptions
from ...foundation.strict_json import JsonObject
from ...models import checkpoint
from ...models.checkpoint.transformers_hook import ENGINE
from ...models.recognizer import Recognizer
from ...models.source import folder_bytes
from ..numerics.sparsity import Sparsity
from ..numerics.weight_grid import QTensor
from ..observation import collect
from ..observation.histogram import Histogram
from ..plan.choice import Choice, InFloat, LayerChoice
from ..plan.plan import Plan
from ..plan.site import Site, layers_of
from .choices import Choices
from .float_passes import FloatPasses
from .forward_pass import CalibrationUtterance, Passages
from .resume import ResumeState
from .rounder import Rounder
from .scores import SCORES, Trial
from .trials import Trials

PROBE_RECORDINGS = 16  # of them that the logits score compares; `wer` needs the words of all
SAVE_EVERY = 8  # recordings between two saves of the statistics


@dataclass(frozen=True)
class SearchSession:
    """A float model whose inputs have been observed, and everything that a search for its plan needs."""

    recognizer: Recognizer
    options: CalibrateOptions
    about: JsonObject  # of the recordings, for the plan
    sites: tuple[Site, ...]
    histograms: Mapping[str, Histogram]
    choices: Choices
    trials: Trials
    passes: FloatPasses
    rounder: Rounder

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers with something to quantize, in forward order."""
        return self.passes.layers

    def plan(self, choices: dict[str, Choice], layers: dict[str, LayerChoice] | None = None) -> Plan:
        """The plan with these choices and the measurements."""
        layers = layers or {}
        scored = {
            name: _with_probe(choice, layers[choice.layer]) if choice.layer in layers else choice
            for name, choice in choices.items()
        }
        about = {
            "name": self.trials.score.name,
            "unit": self.trials.score.unit or self.recognizer.task.UNIT,
            "threshold": self.options.threshold,
        }
        return Plan(self.options.scheme, self.options.method, scored, layers, about, self.about)

    def scored(self, plan: Plan, weights: dict[str, QTensor]) -> Plan:
        """The plan with its score as a whole."""
        trial = Trial("whole model", self.layers[0], plan.quantized(), weights)
        points = self.trials.run("verify", [trial])[trial.key]
        about = {**plan.calibration, "float_passes": round(self.passes.spent, 2)}
        return replace(plan, score={**plan.score, "whole_model": round(points, 6)}, calibration=about)

    def bytes_written(self, plan: Plan) -> int:
        """Bytes on disk of the model for a plan."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(self.recognizer, plan, self.trials.weights(plan.quantized()), Path(folder) / "m")
            self.trials.forget()
            return folder_bytes(Path(folder) / "m")


def sites_of(recognizer: Recognizer) -> tuple[Site, ...]:
    """The sites of a model; one that the engine cannot run stays in float, for the engine's reason."""
    found = recognizer.family.sites(recognizer.model)
    return tuple(site if site.reason else replace(site, reason=ENGINE.refuses(site)) for site in found)


def begin(
    recognizer: Recognizer,
    recordings: Sequence[CalibrationUtterance],
    resume: ResumeState,
    options: CalibrateOptions,
    about: JsonObject,
    held_out: Sequence[CalibrationUtterance] = (),
) -> SearchSession:
    """The session after the pass over all recordings; sites that no recording reached stay in float, with a reason."""
    found, passages = sites_of(recognizer), Passages(recognizer, resume)
    _refuse_sparsity(options.sparsity, found)
    histograms = _observed(passages, found, recordings, resume)
    sites = tuple(
        site if site.reason or site.name in histograms else replace(site, reason="no calibration recording reaches it")
        for site in found
    )
    probe = _probe_subset(recordings, options)
    score = SCORES[options.score]
    decoder = frozenset(filter(recognizer.task.repeats, layers_of(sites)))
    written = len(recordings) + len(held_out) if decoder else 0  # each once, for the tokens that every model follows
    passes = FloatPasses(
        sites,
        histograms,
        spent=(len(recordings) + written) / len(probe),
        repeated=decoder if score.writes else frozenset(),
    )
    return SearchSession(
        recognizer=recognizer,
        options=options,
        about=about,
        sites=sites,
        histograms=histograms,
        choices=Choices(sites, histograms, options),
        trials=Trials(passages, sites, probe, held_out, score, resume, passes),
        passes=passes,
        rounder=Rounder(passages, sites, recordings, len(probe), Path(options.out), passes),
    )


def _refuse_sparsity(wanted: str | None, sites: Sequence[Site]) -> None:
    """InputError if no site can have this sparsity."""
    if wanted is not None and not any(site.takes(Sparsity.parse(wanted)) for site in sites if site.reason is None):
        raise InputError(
            f"--sparsity {wanted}: no weight of this model has a multiple of {Sparsity.parse(wanted).of} inputs; "
            "leave it out"
        )


def _with_probe(choice: Choice, layer: LayerChoice) -> Choice:
    if isinstance(choice, InFloat):
        return choice
    return replace(choice, measured=replace(choice.measured, probe_score=layer.probe_score))


def _observed(
    passages: Passages, sites: tuple[Site, ...], recordings: Sequence[CalibrationUtterance], resume: ResumeState
) -> dict[str, Histogram]:
    """The histograms of the inputs of the sites, continued from those of an earlier run."""
    done, gathered = resume.stats()
    open_sites, recognizer = tuple(site for site in sites if site.reason is None), passages.recognizer
    found = map(passages.of, _bar(recordings, "statistics: histograms of every site", done))
    forward = lambda passage: recognizer.logits(passage.inputs, passage.forced)  # noqa: E731
    steps = collect.histograms(recognizer.model, open_sites, forward, found, gathered)
    for number, gathered in enumerate(steps, done + 1):
        if number % SAVE_EVERY == 0 or number == len(recordings):
            resume.save_stats(number, gathered)
    return gathered


def _probe_subset(recordings: Sequence[CalibrationUtterance], options: CalibrateOptions) -> list[CalibrationUtterance]:
    if options.score == "wer" or len(recordings) <= PROBE_RECORDINGS:
        return list(recordings)
    chosen = np.random.default_rng(options.seed).permutation(len(recordings))[:PROBE_RECORDINGS]
    return [recordings[i] for i in sorted(chosen)]


def _bar(recordings: Sequence[CalibrationUtterance], what: str, done: int) -> tqdm:
    left = recordings[done:]
    return progress.bar(left, desc=what, initial=done, total=len(recordings), unit="recording")
