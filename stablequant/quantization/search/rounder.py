"""Round weights: those of a whole plan, each layer behind integer ones, or those of sites alone, for trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ...foundation import files, progress
from ...foundation.errors import InputError
from ..numerics.integer_grid import sqnr_db
from ..numerics.weight_grid import QTensor, StoredWeight
from ..plan.choice import Quantized
from ..plan.plan import Plan
from ..plan.site import Site, canonical_weight
from .float_passes import FloatPasses
from .forward_pass import CalibrationUtterance, Passages
from .rounding_pass import round_layers


@dataclass(frozen=True)
class Rounder:
    """Rounds weights on all recordings; `probed` of them count as one float pass."""

    passages: Passages
    sites: tuple[Site, ...]
    recordings: Sequence[CalibrationUtterance]
    probed: int
    out: Path  # beside which layers' outputs are kept
    passes: FloatPasses

    def round(self, plan: Plan) -> tuple[Plan, dict[str, QTensor]]:
        """The integer weights of a plan, and the plan with the rounding and its error."""
        choices = plan.quantized()
        if not choices:
            raise InputError(f"{self.passages.recognizer.path}: no part of this model can be quantized")
        weights = {name: one for name, [one] in self._layers("rounding", {n: [c] for n, c in choices.items()}, True)}
        done = {name: self._rounded(name, choice, weights[name]) for name, choice in choices.items()}
        return replace(plan, sites={**plan.sites, **done}), weights

    def round_alone(self, choices: Mapping[str, Sequence[Quantized]]) -> dict[str, list[StoredWeight]]:
        """Low-bit weights of sites, one for each choice, for trials: rounded behind the float model."""
        return {
            name: [StoredWeight.of(each) for each in weights]
            for name, weights in self._layers("rounding each site alone", choices, False)
        }

    def _layers(
        self, what: str, choices: Mapping[str, Sequence[Quantized]], follow: bool
    ) -> Iterator[tuple[str, list[QTensor]]]:
        """The rounded weights of each site, one for each of its choices."""
        shares, probed = self.passes.shares, self.probed
        passages = lambda: map(self.passages.of, self.recordings)  # noqa: E731
        layers = len({site.layer for site in self.sites if site.name in choices})
        with files.workspace(self.out) as folder:
            found = round_layers(self.passages.recognizer, self.sites, choices, passages, folder, follow=follow)
            for _, weights, ran in progress.bar(found, desc=what, total=layers, unit="layer"):
                yield from weights.items()
                self.passes.spent += sum(shares.get(layer, 0.0) * times for layer, times in ran.items()) / probed

    def _rounded(self, name: str, choice: Quantized, rounded: QTensor) -> Quantized:
        """The choice with the error of the rounded weight."""
        return with_error(choice, canonical_weight(self.passages.recognizer.model.get_submodule(name)), rounded)


def with_error(choice: Quantized, weight: Tensor, rounded: QTensor) -> Quantized:
    """The choice with the error of the rounded form of a canonical weight (out, n)."""
    error = (rounded.dequantize() - weight).double().square().mean()
    ratio = sqnr_db(float(weight.double().square().mean()), float(error))
    return replace(choice, measured=replace(choice.measured, weight_sqnr_db=ratio))
