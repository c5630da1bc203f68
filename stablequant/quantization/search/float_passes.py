"""The cost of a search, in passes of the float model over the probe recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..observation.histogram import Histogram
from ..plan.site import Site, layers_of


@dataclass
class FloatPasses:
    """The passes spent so far, and the cost of a trial.

    Where models write text of their own for the score, every trial computes the layers in `repeated`, a decoder's,
    whichever it changes.
    """

    sites: tuple[Site, ...]
    histograms: Mapping[str, Histogram]
    spent: float = 0.0
    repeated: frozenset[str] = frozenset()

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Layers with something to quantize, in forward order: a table of tokens is where it is first looked up."""
        open_layers = {site.layer for site in self.sites if site.reason is None}
        return tuple(layer for layer in layers_of(self.sites) if layer in open_layers)

    def suffix(self, layer: str) -> float:
        """Share of the multiply-adds of a float pass that a trial computes whose first layer this is."""
        first = self.layers.index(layer)
        outputs = {site.layer for site in self.sites if not site.name.startswith(site.layer)}  # of a table: come last
        computed = {*self.layers[first:], *self.repeated, *outputs}
        return sum(share for each, share in self.shares.items() if each in computed)

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
