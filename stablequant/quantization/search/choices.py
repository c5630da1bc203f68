"""What can be chosen for a site: ranges from its histogram, and how its weight is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...foundation import registry
from ...foundation.options import CalibrateOptions, parse_scheme
from ..numerics.activation_grid import Grid, affine, sqnr_db, unsigned_grid
from ..numerics.weight_grid import WeightFormat
from ..observation.histogram import Histogram
from ..plan.choice import Choice
from ..plan.site import Site
from ..ranges import percentile


@dataclass(frozen=True)
class Choices:
    """Choices for the sites of a model whose inputs have been observed."""

    sites: tuple[Site, ...]
    histograms: Mapping[str, Histogram]
    options: CalibrateOptions

    @property
    def weight_bits(self) -> int:
        return parse_scheme(self.options.scheme)[0]

    @property
    def input_bits(self) -> int:
        return parse_scheme(self.options.scheme)[1]

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
        seen = self.histograms[site.name]
        kept = seen if clip is None else seen.within(*percentile.activations(seen, grid, clip))
        low, high = registry.get("ranges", method).activations(kept, grid)
        return float(low), float(high)

    def measured(self, choice: Choice, name: str) -> Choice:
        """The choice for a site with the scale and zero point of its range, and the evidence."""
        seen, grid = self.histograms[name], choice.input_grid
        low, high = min(0.0, choice.low or 0.0), max(0.0, choice.high or 0.0)  # as the grid has it
        scale, zero_point = affine(low, high, grid)
        choice = replace(choice, low=low, high=high, scale=scale, zero_point=zero_point)
        noise = float(seen.noise(np.array([scale]), np.array([choice.input_zero_point]), grid)[0])
        return replace(
            choice,
            clipped_share=round(seen.share_outside(low, high), 8),
            input_sqnr_db=rounded(sqnr_db(seen.power(), noise)),
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
        return 32 if options.limits() and (bits > 2 or not tight) else 64

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


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
