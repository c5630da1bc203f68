"""The possible choices for a site: ranges from its histogram, and how its weight is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...foundation import registry
from ...foundation.options import CalibrateOptions, parse_scheme
from ..numerics.integer_grid import Grid, sqnr_db, unsigned_grid
from ..numerics.sparsity import Sparsity
from ..numerics.weight_grid import WeightFormat
from ..observation.histogram import Histogram
from ..plan.choice import Choice, InFloat, Quantized, WeightChoice, input_choice
from ..plan.site import Site
from ..ranges import percentile
from ..weight_formats.base import weight_format

TRIAL = weight_format(8)  # of coarse weights in a trial of ranges


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

        In a trial of ranges a weight of a coarse format has 8 bits and no zeros: its own noise would hide what the
        range does.
        """
        if site.reason is not None:
            return InFloat(site.layer, site.kind, site.reason)
        low, high = self.range(site, method, clip, unsigned_grid(self.input_bits))
        weight = self._in_trial(site, method) if trial else self.weight(site, self.weight_bits, method)
        read = input_choice(low, high, self.input_bits, method, clip)
        return self.measured(Quantized(site.layer, site.kind, weight, read), site.name)

    def in_trial(self, choices: Mapping[str, Choice]) -> dict[str, Quantized]:
        """The quantized choices as a trial of ranges takes them."""
        found = {site: choices[site.name] for site in self.sites}
        return {
            site.name: replace(choice, weight=self._in_trial(site, choice.weight.method))
            for site, choice in found.items()
            if isinstance(choice, Quantized)
        }

    def _in_trial(self, site: Site, method: str) -> WeightChoice:
        format = self.format(site, self.weight_bits)
        return self._chosen(site, TRIAL if format.coarse else format, method)

    def range(self, site: Site, method: str, clip: float | None, grid: Grid) -> tuple[float, float]:
        """(low, high) by a range method for a site."""
        seen = self.histograms[site.name]
        kept = seen if clip is None else seen.within(*percentile.activations(seen, grid, clip))
        low, high = registry.get("ranges", method).activations(kept, grid)
        return float(low), float(high)

    def measured(self, choice: Quantized, name: str) -> Quantized:
        """The choice for a site with the evidence for the grid of its input."""
        read, seen = choice.input, self.histograms[name]
        if read is None:
            return choice
        noise = float(seen.noise(np.array([read.scale]), np.array([read.exact_zero]), read.grid)[0])
        share = round(seen.share_outside(read.low, read.high), 8)
        ratio = sqnr_db(seen.power(), noise)
        return replace(choice, measured=replace(choice.measured, clipped_share=share, input_sqnr_db=ratio))

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

    def sparsity(self, site: Site) -> str | None:
        """That of the options where the weight of a site can have it; None: all its weights are kept."""
        wanted = self.options.sparsity
        return wanted if wanted is not None and site.takes(Sparsity.parse(wanted)) else None

    def format(self, site: Site, bits: int) -> WeightFormat:
        """What a weight of so many bits has in a search."""
        grouped = weight_format(bits).coarse
        return weight_format(bits, self.group(bits) if grouped else None, grouped, self.sparsity(site))

    def weight(self, site: Site, bits: int, method: str) -> WeightChoice:
        """How the weight of a site is quantized to `bits`."""
        return self._chosen(site, self.format(site, bits), method)

    def _chosen(self, site: Site, format: WeightFormat, method: str) -> WeightChoice:
        of_weight = "mse" if format.coarse else method  # in groups the range is a step, searched for least error
        return weight_choice(site, format, of_weight, self.rounding(format))

    def rounding(self, format: WeightFormat) -> str:
        """How weights of a format are rounded."""
        return self.options.rounding or ("compensated" if format.coarse else "nearest")


def weight_choice(site: Site, format: WeightFormat, method: str, rounding: str) -> WeightChoice:
    """The choice with the size that the weight of a site has."""
    columns = site.in_channels * site.kernel
    size = format.bytes(site.out_channels, columns)
    return WeightChoice(format, method, rounding, site.out_channels * columns, size)
