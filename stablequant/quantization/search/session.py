"""What a planner works with: ranges from the histograms, scores of trials, rounded weights, and what they cost.

Everything it finds goes through the journal, so that an interrupted calibration goes on where it was.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...foundation import progress, registry
from ...foundation.errors import InputError
from ...models import checkpoint
from ...models.families import discovery
from ...models.recognizers import Recognizer
from ..numerics.activation_grid import Grid, affine, sqnr_db, unsigned_grid
from ..numerics.weight_grid import DenseWeight, QTensor, WeightFormat
from ..observation import collect
from ..observation.histogram import Histogram
from ..plan.choice import Choice, LayerChoice
from ..plan.plan import Plan, parse_scheme
from ..plan.site import Site, canonical_weight, layers_of
from ..ranges import percentile
from . import rounding_pass
from .resume import Journal
from .scores import SCORES, Part, Recording, Score, Trial, run_trials, total

if TYPE_CHECKING:
    from ...workflows.calibrate import Options

PROBE_RECORDINGS = 16  # of them that the logits score compares; `wer` needs the words of all
BUDGET = 38.0  # float passes over the probe recordings, for ranges; bits and rounding have their own
LIMITS = ("avg_bits", "target_compression", "max_wer_increase")  # options that make bits differ from site to site
FEWEST_ERRORS = 5  # that a bound on the word error rate should allow in the words it is checked on
SAVE_EVERY = 8  # recordings between two saves of the statistics


@dataclass
class Calibration:
    """What a planner works with."""

    recognizer: Recognizer
    recordings: Sequence[Recording]
    journal: Journal
    options: Options
    about: dict[str, Any]  # of the recordings, for the plan
    held_out: Sequence[Recording] = ()  # that calibrate nothing, for a bound on the word error rate
    passes: float = 0.0  # float passes over the probe recordings so far
    stats: dict[str, Histogram] = field(default_factory=dict)
    _weights: dict[tuple[str, str], QTensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method = self.options.method
        self.threshold = self.options.threshold
        self.score: Score = SCORES[self.options.score]
        self.weight_bits, self.input_bits = parse_scheme(self.options.scheme)
        self.sites = discovery.discover(self.recognizer.model)
        self.probe_recordings = _probe_subset(self.recordings, self.options)

    def collect(self) -> None:
        """The one pass over all recordings; afterwards a site that nothing reached stays in float, with its reason."""
        done, gathered = self.journal.stats()
        found = tuple(site for site in self.sites if site.reason is None)
        waveforms = (r.read() for r in _bar(self.recordings, "statistics: histograms of every site", done))
        passes = collect.histograms(self.recognizer.model, found, self.recognizer.logits, waveforms, gathered)
        for number, gathered in enumerate(passes, done + 1):
            if number % SAVE_EVERY == 0 or number == len(self.recordings):
                self.journal.save_stats(number, gathered)
        self.stats = gathered
        self.sites = tuple(
            site
            if site.reason or site.name in self.stats
            else replace(site, reason="no calibration recording reaches it")
            for site in self.sites
        )
        self.passes += len(self.recordings) / len(self.probe_recordings)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers with something to quantize, in forward order."""
        return layers_of(tuple(site for site in self.sites if site.reason is None))

    def choose(self, site: Site, method: str, clip: float | None = None, *, trial: bool = False) -> Choice:
        """The range that a method gives for a site, after removing the `clip` % largest of its input values.

        In a trial of ranges a weight of 4 bits and fewer has 8: its own noise would hide what the range does.
        """
        if site.reason is not None:
            return Choice(site.layer, site.kind, site.reason)
        low, high = self.range(site, method, clip, unsigned_grid(self.input_bits))
        choice = Choice(
            layer=site.layer,
            kind=site.kind,
            **self.weight_choice(site, self._trial_bits() if trial else self.weight_bits, method),
            input_bits=self.input_bits,
            method=method,
            clip_percent=clip,
            low=low,
            high=high,
        )
        return self.measured(choice, site.name)

    def in_trial(self, choices: Mapping[str, Choice]) -> dict[str, Choice]:
        """The quantized choices as a trial of ranges takes them."""
        return {
            site.name: replace(
                choices[site.name], **self.weight_choice(site, self._trial_bits(), str(choices[site.name].method))
            )
            for site in self.sites
            if choices[site.name].quantized
        }

    def _trial_bits(self) -> int:
        return 8 if WeightFormat(self.weight_bits).dense else self.weight_bits

    def range(self, site: Site, method: str, clip: float | None, grid: Grid) -> tuple[float, float]:
        """(low, high) that a range method gives for a site."""
        seen = self.stats[site.name]
        kept = seen if clip is None else seen.within(*percentile.activations(seen, grid, clip))
        low, high = registry.get("ranges", method).activations(kept, grid)
        return float(low), float(high)

    def measured(self, choice: Choice, name: str) -> Choice:
        """The choice for a site with the scale and zero point of its range, and the evidence."""
        seen, grid = self.stats[name], choice.input_grid
        low, high = min(0.0, choice.low or 0.0), max(0.0, choice.high or 0.0)  # as the grid has it
        scale, zero_point = affine(low, high, grid)
        choice = replace(choice, low=low, high=high, scale=scale, zero_point=zero_point)
        noise = float(seen.noise(np.array([scale]), np.array([choice.input_zero_point]), grid)[0])
        return replace(
            choice,
            clipped_share=round(seen.share_outside(low, high), 8),
            input_sqnr_db=_rounded(sqnr_db(seen.power(), noise)),
        )

    def group(self, bits: int) -> int | None:
        """Weights that share a step; smaller groups are worth their bytes where bits can be saved elsewhere."""
        options = self.options
        if options.group_size != "auto":
            return options.group_size
        tight = (
            options.max_wer_increase is not None
            or (options.avg_bits or 8) < 3
            or (options.target_compression or 1) > 10
        )
        return 32 if _mixes(options) and (bits > 2 or not tight) else 64

    def weight_choice(self, site: Site, bits: int, method: str) -> dict[str, Any]:
        """The fields of a choice that say how the weight of a site is quantized to `bits`."""
        packed = WeightFormat(bits).dense
        format = WeightFormat(bits, self.group(bits), asymmetric=True) if packed else WeightFormat(bits)
        columns = site.in_channels * site.kernel
        return {
            "weight_bits": bits,
            "weight_group": format.group,
            "weight_asymmetric": format.asymmetric or None,
            "weight_count": site.out_channels * columns,
            "weight_bytes": format.bytes(site.out_channels, columns),
            "weight_method": "mse" if packed else method,  # in groups the range is a step, searched for least error
            "rounding": self.rounding(bits),
        }

    def rounding(self, bits: int) -> str:
        """How weights of so many bits are rounded."""
        return self.options.rounding or ("compensated" if WeightFormat(bits).dense else "nearest")

    def weights(self, choices: Mapping[str, Choice]) -> dict[str, QTensor]:
        """The integer weights of the quantized sites in `choices`, for a trial: rounded to nearest."""
        return {name: self._nearest(name, choice) for name, choice in choices.items() if choice.quantized}

    def run(self, stage: str, trials: Sequence[Trial], part: float = 1.0) -> dict[str, float]:
        """Scores of trials on the first `part` of the probe recordings, in points by key."""
        chosen = self.probe_recordings[: max(1, round(part * len(self.probe_recordings)))]
        parts: dict[str, list[Part]] = {trial.key: [] for trial in trials}
        with progress.bar(total=len(chosen) * len(trials), unit="trial", disable=not trials) as bar:
            for number, recording in enumerate(chosen if trials else ()):
                found = self._parts(f"{stage} {number}", recording, trials, bar, stage)
                for key in parts:
                    parts[key].append((found[key][0], found[key][1]))
        cost = 1 + sum(self.suffix(trial.first) for trial in trials) if trials else 0
        self.passes += cost * len(chosen) / len(self.probe_recordings)
        self._weights.clear()  # other trials want others, and together they would be another model in memory
        return {key: total(values) for key, values in parts.items()}

    def suffix(self, layer: str) -> float:
        """Share of the multiply-adds of a float pass that lies in a layer and after it."""
        shares = self._shares()
        return sum(list(shares.values())[self.layers.index(layer) :])

    def _shares(self) -> dict[str, float]:
        """Share of the multiply-adds of a float pass that lies in each layer."""
        cost = dict.fromkeys(self.layers, 0.0)
        for site in self.sites:
            if site.reason is None:
                cost[site.layer] += _multiply_adds(site, self.stats[site.name])
        return {layer: adds / sum(cost.values()) for layer, adds in cost.items()}

    def affordable(self, selected: Sequence[str]) -> float:
        """How many candidates for each selected layer the budget lets be tried on all the probe recordings."""
        left = BUDGET - self.passes - 2  # the score of the whole plan comes after
        left -= 5  # the float model, once for each of three stages, and two whole plans in the last of them
        return max(0.0, left / max(1e-9, sum(self.suffix(layer) for layer in selected)))

    def plan(self, choices: dict[str, Choice], layers: dict[str, LayerChoice] | None = None) -> Plan:
        """The plan that consists of these choices, with the evidence added."""
        layers = layers or {}
        scored = {
            name: replace(c, probe_score=layers[c.layer].probe_score) if c.quantized and c.layer in layers else c
            for name, c in choices.items()
        }
        about = {"name": self.score.name, "unit": self.score.unit, "threshold": self.threshold}
        return Plan(self.options.scheme, self.method, scored, layers, about, self.about)

    def round(self, plan: Plan) -> tuple[Plan, dict[str, QTensor]]:
        """The integer weights of a plan, and the plan with what rounding did to them."""
        choices = plan.quantized()
        if not choices:
            raise InputError(f"{self.options.model}: nothing in this model can be quantized")
        weights = {name: one for name, [one] in self._layers("rounding", {n: [c] for n, c in choices.items()}, True)}
        done = {name: self._rounded(name, choice, weights[name]) for name, choice in choices.items()}
        return replace(plan, sites={**plan.sites, **done}), weights

    def round_alone(self, choices: Mapping[str, Sequence[Choice]]) -> dict[str, list[DenseWeight]]:
        """Low-bit weights of sites, one for each choice, for trials: rounded behind the float model."""
        return {
            name: [DenseWeight.of(each) for each in weights]
            for name, weights in self._layers("rounding each site alone", choices, False)
        }

    def _layers(
        self, what: str, choices: Mapping[str, Sequence[Choice]], follow: bool
    ) -> Iterator[tuple[str, list[QTensor]]]:
        """The rounded weights of each site, one for each of its choices."""
        shares, probed = self._shares(), len(self.probe_recordings)
        waveforms = lambda: (recording.read() for recording in self.recordings)  # noqa: E731
        layers = len({site.layer for site in self.sites if site.name in choices})
        with checkpoint.workspace(Path(self.options.out)) as folder:
            found = rounding_pass.round_layers(self.recognizer, self.sites, choices, waveforms, folder, follow=follow)
            for _, weights, ran in progress.bar(found, desc=what, total=layers, unit="layer"):
                yield from weights.items()
                self.passes += sum(shares.get(layer, 0.0) * times for layer, times in ran.items()) / probed

    def verify(self, plan: Plan, weights: dict[str, QTensor]) -> Plan:
        """The plan with the score of the whole of it."""
        trial = Trial("whole model", self.layers[0], plan.quantized(), weights)
        points = self.run("verify", [trial])[trial.key]
        about = {**plan.calibration, "float_passes": round(self.passes, 2)}
        return replace(plan, score={**plan.score, "whole_model": round(points, 6)}, calibration=about)

    def bytes_written(self, plan: Plan) -> int:
        """Bytes on disk of the model that a plan gives."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(self.recognizer, plan, self.weights(plan.quantized()), Path(folder) / "m")
            self._weights.clear()
            return replace(self.recognizer, path=str(Path(folder) / "m")).bytes_on_disk()

    def held_out_increase(self, plan: Plan) -> float:
        """GridPoints of word error rate that a plan loses on the recordings that calibrate nothing."""
        _, weights = self.round(plan)
        choices = plan.quantized()
        trial = Trial("held out", self.layers[0], choices, weights)
        layers = layers_of(self.sites)
        parts = [
            run_trials(self.recognizer, layers, each, [trial], SCORES["wer"], lambda _: None)[trial.key]
            for each in self.held_out
        ]
        self.passes += 2 * len(self.held_out) / len(self.probe_recordings)
        return total(parts)

    def promised(self, plan: Plan, bound: float, increase: float) -> Plan:
        """The plan with what was measured for a bound on the word error rate; where that says little it is told."""
        words = sum(len((each.text or "").split()) for each in self.held_out)
        if increase > bound:
            warnings.warn(
                f"no model was found that loses {bound:g} points or less on the held-out recordings; "
                f"this one, at 8 bits, loses {increase:.2f}",
                stacklevel=1,
            )
        if words * bound < 100 * FEWEST_ERRORS:
            warnings.warn(
                f"{words} words in {len(self.held_out)} held-out recordings cannot tell a loss of {bound:g} points "
                f"from chance: one word is {100 / max(1, words):.2g} points; give more recordings",
                stacklevel=1,
            )
        held_out = {"recordings": len(self.held_out), "words": words, "wer_increase": round(increase, 4)}
        return replace(plan, calibration={**plan.calibration, "held_out": held_out})

    def _nearest(self, name: str, choice: Choice) -> QTensor:
        key = name, f"{choice.weight_format} {choice.weight_method}"
        if key not in self._weights:
            weight = canonical_weight(self.recognizer.model.get_submodule(name))
            [self._weights[key]] = rounding_pass.round_site(weight, [replace(choice, rounding="nearest")])
        return self._weights[key]

    def _rounded(self, name: str, choice: Choice, rounded: QTensor) -> Choice:
        """The choice with what rounding did to the weight."""
        weight = canonical_weight(self.recognizer.model.get_submodule(name))
        error = (rounded.dequantize() - weight).double().square().mean()
        return replace(
            choice,
            weight_count=weight.numel(),
            weight_bytes=choice.weight_format.bytes(*weight.shape),
            weight_sqnr_db=_rounded(sqnr_db(float(weight.double().square().mean()), float(error))),
        )

    def _parts(self, key: str, recording: Recording, trials: Sequence[Trial], bar: Any, stage: str) -> dict[str, Any]:
        def tick(trial: str) -> None:
            bar.set_description(f"{stage}: {trial}", refresh=False)
            bar.update()

        found = self.journal.scores(key)
        if found is None:
            every_layer = layers_of(self.sites)  # those in float too: a trial computes no prefix again
            found = run_trials(self.recognizer, every_layer, recording, trials, self.score, tick)  # type: ignore[assignment]
            self.journal.add_scores(key, found)  # type: ignore[arg-type]
        else:
            bar.update(len(trials))
        return found  # type: ignore[return-value]


def _mixes(options: Options) -> bool:
    return any(getattr(options, name) is not None for name in LIMITS)


def _probe_subset(recordings: Sequence[Recording], options: Options) -> list[Recording]:
    if options.score == "wer" or len(recordings) <= PROBE_RECORDINGS:
        return list(recordings)
    chosen = np.random.default_rng(options.seed).permutation(len(recordings))[:PROBE_RECORDINGS]
    return [recordings[i] for i in sorted(chosen)]


def _multiply_adds(site: Site, seen: Histogram) -> float:
    """Multiply-adds of a site over the calibration recordings, from the number of input values it saw."""
    input_frames = seen.total / (site.in_channels * site.groups)
    return input_frames / site.stride * site.macs_per_output_frame


def _bar(recordings: Sequence[Recording], what: str, done: int) -> Any:
    left = recordings[done:]
    return progress.bar(left, desc=what, initial=done, total=len(recordings), unit="recording")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
