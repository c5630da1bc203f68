"""A site: a place where a model can be quantized, as seen by everything except the families."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..numerics.sparsity import Sparsity


@dataclass(frozen=True)
class Site:
    """A module with a weight matrix. `reason` says why it stays in float, None where it can be quantized."""

    name: str
    layer: str
    kind: str  # "linear", "conv", "grouped conv", or the name of a module's class, which then stays in float
    out_channels: int
    in_channels: int  # of one group
    kernel: int
    stride: int
    padding: int
    dilation: int
    groups: int
    reason: str | None
    reads: str = ""  # the same for sites that read one tensor (q, k and v of a block); "" for one that shares none

    @property
    def input_key(self) -> str:
        """The key of the tensor that the site reads, among the inputs of all sites."""
        return self.reads or self.name

    @property
    def unpadded_conv(self) -> bool:
        """Whether it needs no exact zero, and its input is quantized outside the producer's kernel."""
        return self.kind == "conv" and self.padding == 0

    def takes(self, sparsity: Sparsity) -> bool:
        """Whether its weight can have this sparsity: every output reads all channels, which are whole blocks."""
        return self.groups == 1 and self.in_channels % sparsity.of == 0

    @property
    def macs_per_output_frame(self) -> int:
        """Multiply-adds for one output frame."""
        return self.out_channels * self.in_channels * self.kernel


def layers_of(sites: tuple[Site, ...]) -> tuple[str, ...]:
    """The layers that hold the sites, in forward order."""
    return tuple(dict.fromkeys(site.layer for site in sites))


def canonical_weight(module: nn.Module) -> Tensor:
    """The float32 weight as (out, in / groups * kernel), detached."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} has no weight tensor")
    return weight.detach().float().flatten(1)
