"""Trials: some sites are quantized and scored on the probe recordings; results are kept for a resumed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from ...foundation import progress
from ..numerics.weight_grid import QTensor
from ..plan.choice import Choice, Quantized
from ..plan.plan import Plan
from ..plan.site import Site, canonical_weight, layers_of
from .float_passes import FloatPasses
from .forward_pass import CalibrationUtterance, Passages
from .resume import Parts, ResumeState
from .rounding_pass import round_site
from .scores import SCORES, Part, Score, Trial, run_trials, total


@dataclass
class Trials:
    """Scores of trials on the probe `recordings`, and of a plan on the ones held out."""

    passages: Passages
    sites: tuple[Site, ...]
    recordings: Sequence[CalibrationUtterance]
    held_out: Sequence[CalibrationUtterance]
    score: Score
    resume: ResumeState
    passes: FloatPasses
    _weights: dict[tuple[str, str], QTensor] = field(default_factory=dict)

    def forget(self) -> None:
        """Drop the weights that trials used."""
        self._weights.clear()

    def run(self, stage: str, trials: Sequence[Trial], part: float = 1.0) -> dict[str, float]:
        """Scores of trials on the first `part` of the probe recordings, in points by key."""
        chosen = self.recordings[: max(1, round(part * len(self.recordings)))]
        parts: dict[str, list[Part]] = {trial.key: [] for trial in trials}
        with progress.bar(total=len(chosen) * len(trials), unit="trial", disable=not trials) as bar:
            for number, recording in enumerate(chosen if trials else ()):
                found = self._parts(f"{stage} {number}", recording, trials, bar, stage)
                for key in parts:
                    parts[key].append((found[key][0], found[key][1]))
        cost = 1 + sum(self.passes.suffix(trial.first) for trial in trials) if trials else 0
        self.passes.spent += cost * len(chosen) / len(self.recordings)
        self._weights.clear()  # other trials want others, and together they would be another model in memory
        return {key: total(values) for key, values in parts.items()}

    def weights(self, choices: Mapping[str, Choice]) -> dict[str, QTensor]:
        """The integer weights of the quantized sites in `choices`, for a trial: rounded to nearest."""
        return {name: self._nearest(name, choice) for name, choice in choices.items() if isinstance(choice, Quantized)}

    def held_out_increase(self, plan: Plan, weights: Mapping[str, QTensor]) -> float:
        """Points of word error rate that a plan loses on the held-out recordings."""
        choices = plan.quantized()
        trial = Trial("held out", self.passes.layers[0], choices, weights)
        layers = layers_of(self.sites)
        parts = [
            run_trials(self.passages, layers, each, [trial], SCORES["wer"], lambda _: None)[trial.key]
            for each in self.held_out
        ]
        self.passes.spent += 2 * len(self.held_out) / len(self.recordings)
        return total(parts)

    def _nearest(self, name: str, choice: Quantized) -> QTensor:
        key = name, f"{choice.weight.format} {choice.weight.method}"
        if key not in self._weights:
            weight = canonical_weight(self.passages.recognizer.model.get_submodule(name))
            [self._weights[key]] = round_site(
                weight, [replace(choice, weight=replace(choice.weight, rounding="nearest"))]
            )
        return self._weights[key]

    def _parts(
        self, key: str, recording: CalibrationUtterance, trials: Sequence[Trial], bar: tqdm, stage: str
    ) -> Parts:
        def tick(trial: str) -> None:
            bar.set_description(f"{stage}: {trial}", refresh=False)
            bar.update()

        found = self.resume.scores(key)
        if found is None:
            every_layer = layers_of(self.sites)  # those in float too: a trial computes no prefix again
            found = run_trials(self.passages, every_layer, recording, trials, self.score, tick)
            self.resume.add_scores(key, found)
        else:
            bar.update(len(trials))
        return found
