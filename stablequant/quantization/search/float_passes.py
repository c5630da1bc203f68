"""The cost of a search, in passes of the float model over the probe recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..observation.histogram import Histogram
from ..plan.site import Site, layers_of


@dataclass
class FloatPasses:
    """The passes spent so far, and the cost of a pass that starts at a layer."""

    sites: tuple[Site, ...]
    histograms: Mapping[str, Histogram]
    spent: float = 0.0

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Layers with something to quantize, in forward order."""
        return layers_of(tuple(site for site in self.sites if site.reason is None))

    def suffix(self, layer: str) -> float:
        """Share of the multiply-adds of a float pass that lies in a layer and after it."""
        return sum(list(self.shares.values())[self.layers.index(layer) :])

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the multiply-adds of a float pass that lies in each layer, in forward order."""
        cost = dict.fromkeys(self.layers, 0.0)
        for site in self.sites:
            if site.reason is None:
                cost[site.layer] += _multiply_adds(site, self.histograms[site.name])
        whole = sum(cost.values())
        return {layer: adds / whole for layer, adds in cost.items()}


def _multiply_adds(site: Site, seen: Histogram) -> float:
    """Multiply-adds of a site over the calibration recordings, from the number of input values it saw."""
    input_frames = seen.total / (site.in_channels * site.groups)
    return input_frames / site.stride * site.macs_per_output_frame
