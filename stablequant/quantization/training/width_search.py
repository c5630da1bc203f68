"""Single-stage mixed precision: the bits of each weight are learned together with the weights, end to end.

Every site computes with a mixture of its weight at 8, 4, 3 and 2 bits (quantizers/mixture.py), whose shares follow the
gradient: a width gains value as far as more of it would lower the loss. At each step one price for a byte, found by
bisection, makes the expected bytes those that are allowed; the temperature falls, so that each site ends near one
width. The widths that are kept are the most likely ones in so many bytes: the integer program of planners/mixed.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models.recognizer import Recognizer
from ..numerics.weight_grid import QTensor
from ..plan.choice import TRAINED, Quantized
from ..plan.plan import Plan
from ..plan.site import canonical_weight
from ..planners.mixed import WIDTHS, knapsack
from ..search.choices import Choices
from ..search.forward_pass import Passage
from ..search.rounder import with_error
from ..search.rounding_pass import round_layers, round_site
from .end_to_end import EndToEnd
from .quantizers.mixture import MixedWeight, Widths, likely

HALVINGS = 60  # of the interval in which the price of a byte lies
MEMORY = 0.9  # of the mean size of gains, from one step to the next


def candidates(
    teacher: Recognizer,
    plan: Plan,
    stored: Mapping[str, QTensor],
    choices: Choices,
    passages: Iterable[Passage],
    folder: Path,
) -> dict[str, Widths]:
    """The weights of every site at every width, each rounded alone; at the width of the plan, its `stored` ones.

    Outputs of layers are kept in `folder`.
    """
    wanted = _at_widths(plan, choices)
    found: dict[str, dict[int, QTensor]] = {}
    for name, of in wanted.items():
        wide = {bits: choice for bits, choice in of.items() if not choice.weight.format.coarse}
        weight = canonical_weight(teacher.model.get_submodule(name))
        found[name] = dict(zip(wide, round_site(weight, list(wide.values())), strict=True)) if wide else {}
    narrow = {name: [each for each in of.values() if each.weight.format.coarse] for name, of in wanted.items()}
    heard = list(passages)
    for rounded in round_layers(teacher, choices.sites, narrow, lambda: heard, folder, follow=False):
        for name, weights in rounded.weights.items():
            found[name] |= {weight.format.bits: weight for weight in weights}
    return {
        name: Widths(
            {bits: stored[name] if stored[name].format == of[bits].format else of[bits] for bits in WIDTHS},
            {bits: wanted[name][bits].weight.bytes for bits in WIDTHS},
            stored[name].format.bits,
        )
        for name, of in found.items()
    }


def _at_widths(plan: Plan, choices: Choices) -> dict[str, dict[int, Quantized]]:
    """The choice for each site of a plan at each width."""
    sites = {site.name: site for site in choices.sites}
    return {
        name: {bits: replace(choice, weight=choices.weight(sites[name], bits, "mse")) for bits in WIDTHS}
        for name, choice in plan.quantized().items()
    }


@dataclass
class WidthSearch(EndToEnd):
    """A student of mixed weights, which may take `limit` bytes in the end; the last state is kept, not the best."""

    limit: float = math.inf
    size: float = 0.0  # mean of gains

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mixed = {
            name: site.weight for name, site in self.student.sites.items() if isinstance(site.weight, MixedWeight)
        }
        self.values = torch.stack([each.value for each in self.mixed.values()])  # (sites, widths)
        self.bytes = torch.stack([each.bytes for each in self.mixed.values()])

    def _check(self) -> dict[str, Any]:
        at, self.best = self.progress, self.student.snapshot()
        mean = {"loss": round(at.loss / at.symbols, 6)} if at.symbols else {}
        at.loss = at.symbols = at.score = 0.0
        sure = float(likely(self.values, self.bytes, self._price()).amax(1).mean())
        return {"step": at.step, **mean, "certainty": round(sure, 4)}

    def _step(self, done: float) -> bool:
        temperature = self.settings.temperature(done)
        random = np.random.default_rng([self.lessons.seed, self.progress.step])
        noise = torch.from_numpy(random.gumbel(size=self.values.shape)).float()
        probable = likely(self.values, self.bytes, self._price())
        for each, of_site, drawn in zip(self.mixed.values(), probable, noise, strict=True):
            each.sample(of_site, drawn, temperature)
            each.gain.zero_()
            each.place()
        finite = super()._step(done)
        if finite:
            self._learn(temperature)
        return finite

    def _learn(self, temperature: float) -> None:
        """Move the values of widths up their gradient, whose mean size over all sites is set to one."""
        moves = [
            each.share * (each.gain - (each.share * each.gain).sum()) / temperature for each in self.mixed.values()
        ]
        step = torch.stack(moves)
        if size := float(step.square().mean().sqrt()):  # 0 where the float model repeats itself on every recording
            self.size = MEMORY * self.size + (1 - MEMORY) * size if self.size else size
            self.values += self.settings.value_rate * step / self.size

    def _price(self) -> float:
        """Of a byte, in units of value: the one at which the expected bytes are those allowed."""
        expected = lambda price: float((likely(self.values, self.bytes, price) * self.bytes).sum())  # noqa: E731
        low, high = 0.0, 1e3 / float(self.bytes.min())
        if expected(low) <= self.limit:
            return low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if expected(middle) > self.limit else (low, middle)
        return high

    def widths(self) -> dict[str, int]:
        """The most likely bits of each site in so many bytes."""
        lost, sizes = {}, {}
        for (name, each), value in zip(self.mixed.items(), self.values, strict=True):
            surprise: Tensor = -value.log_softmax(0)
            lost[name] = dict(zip(each.widths, surprise.tolist(), strict=True))
            sizes[name] = {bits: int(size) for bits, size in zip(each.widths, each.bytes.tolist(), strict=True)}
        return knapsack(lost, sizes, self.limit, 1.0)

    def result(self, plan: Plan, choices: Choices) -> tuple[Plan, dict[str, QTensor]]:
        """The plan with the widths that were learned, and the weights of these widths as they were trained."""
        bits, wanted = self.widths(), _at_widths(plan, choices)
        made: dict[str, Quantized] = {}
        weights: dict[str, QTensor] = {}
        for name, each in self.mixed.items():
            weights[name] = each.chosen(bits[name])
            choice = wanted[name][bits[name]]
            choice = replace(choice, weight=replace(choice.weight, rounding=TRAINED))
            float_weight = canonical_weight(self.student.teacher.model.get_submodule(name))
            made[name] = with_error(
                replace(choice, input=self.student.sites[name].input.chosen()), float_weight, weights[name]
            )
        found = replace(plan, sites={**plan.sites, **made})
        inputs = plan.scheme.rpartition("a")[2]
        return replace(found, scheme=f"w{found.average_bits():.2f}a{inputs}"), weights
