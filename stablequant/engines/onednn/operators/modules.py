"""Quantized sites on oneDNN's kernels, module by module: each contains its state, and runs it.

On the first call weights are expanded to int8 and packed for the kernel; the portable codes stay, so saving writes the
same bytes. Codes that are mapped from a checkpoint take no memory next to their packed form: their pages are returned
to the system.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....foundation.memory_pages import drop_mapped
from ....quantization.numerics.integer_grid import quantize
from ....quantization.plan.site import Site
from ...quantized_site import InputGrid, QuantizedSite, SiteForm, TableOf
from . import kernels
from .kernels import GridPoint, Prepacked
from .stopwatch import timed

DILATED = "the integer kernels have no dilated convolution"
MID_RISE = "mid_rise is for convolutions without padding; delete it"
WEIGHT_ONLY = "the integer kernels need inputs on a grid"
MOST_GROUPS = 64  # of a convolution: each group is a product of its own


class IntegerModule(QuantizedSite):
    """What all integer sites have in common; a subclass says how to pack and run."""

    input: InputGrid  # as of the last `prepare`

    def __init__(self, form: SiteForm, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(form, tensors)
        self.prepare()

    def prepare(self) -> None:
        """Read the grid of the input, and drop the packed weights: they are packed anew on the next call."""
        self.input = self.input_grid()
        self._values = object()  # these values, and no others
        self._prepacked: tuple[Prepacked, ...] | None = None
        self._joined: tuple[list[object], Prepacked] | None = None

    def prepacked(self) -> tuple[Prepacked, ...]:
        """The weight as the kernel wants it, one tensor for each group; packed on the first call."""
        if self._prepacked is None:
            self._prepacked = self._prepack()
            drop_mapped(self.codes)
        return self._prepacked

    @timed("quantize")
    def quantize_input(self, x: Tensor, out: Tensor | None = None, *, spend: bool = False) -> Tensor:
        """uint8 codes of a float32 input, same shape and memory order; `spend` lets the input be overwritten."""
        grid = self.input
        return quantize(x, grid.scale, grid.exact, grid.codes, out, spend=spend)

    def quantize_rows(self, x: Tensor) -> Tensor:
        """uint8 codes of float rows (n, C), with room up to a round number of rows."""
        codes = x.new_empty((kernels.round_rows(len(x)), x.shape[1]), dtype=torch.uint8)
        self.quantize_input(x, codes[: len(x)])
        return codes

    def _prepack(self) -> tuple[Prepacked, ...]:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, object]:
        """What a copy takes: packed weights cannot be copied, and are packed again from the codes."""
        return {**super().__getstate__(), "_prepacked": None, "_joined": None}


class IntegerLinear(IntegerModule):
    """x (..., in) float32 -> (..., out) float32."""

    def _prepack(self) -> tuple[Prepacked, ...]:
        weight = self.integer_weight()
        return (kernels.prepack(weight.codes, weight.scales, weight.bias),)

    def joined(self, *others: IntegerLinear) -> Prepacked:
        """The weights of this and other modules with the same input as one; packed on the first call."""
        parts = [self, *others]
        values = [each._values for each in parts]
        if self._joined is None or self._joined[0] != values:
            weights = [each.integer_weight() for each in parts]
            codes, scales, biases = (
                torch.cat([getattr(each, name) for each in weights]) for name in ("codes", "scales", "bias")
            )
            self._joined = values, kernels.prepack(codes, scales, biases)
            for each in parts:
                drop_mapped(each.codes)
        return self._joined[1]

    def forward(self, x: Tensor) -> Tensor:
        """Quantize the input, multiply integers, return float32."""
        rows = x.reshape(-1, x.shape[-1])
        out = kernels.linear(self.quantize_rows(rows), self.input.point, self.prepacked()[0])
        return out[: len(rows)].view(*x.shape[:-1], -1)


class IntegerConv(IntegerModule):
    """A Conv1d, grouped or not: x (B, C, T) float32 -> (B, out, frames) float32 in channels-last memory."""

    @property
    def kernel(self) -> int:
        return self.form.weight_shape[2]

    def _prepack(self) -> tuple[Prepacked, ...]:
        weight, groups = self.integer_weight(), self.form.groups
        rows = weight.codes.transpose(1, 2).flatten(1)  # (out, kernel * in / groups), as a window lies in memory
        parts = zip(*(x.chunk(groups) for x in (rows, weight.scales, weight.bias)), strict=True)
        return tuple(kernels.prepack(codes, scales, bias) for codes, scales, bias in parts)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize the input, multiply integers window by window, return float32."""
        batch, _, length = x.shape
        codes = self.quantize_input(x).reshape(batch, self.form.groups, -1, length).transpose(2, 3).contiguous()
        return torch.stack([self._utterance(utterance) for utterance in codes]).transpose(1, 2)

    def _utterance(self, codes: Tensor) -> Tensor:
        """uint8 (groups, T, C / groups) -> float32 (frames, out)."""
        if padding := self.form.padding:
            codes = F.pad(codes, (0, 0, padding, padding), value=self.input.zero_point)
        return torch.cat([self.rows(group, number) for number, group in enumerate(codes)], dim=1)

    def rows(
        self, codes: Tensor, group: int = 0, *, gelu: bool = False, requantize: GridPoint | None = None
    ) -> Tensor:
        """One group of one utterance, padded, channels-last: uint8 (T, C / groups) -> (frames, out / groups)."""
        view = kernels.windows(codes, self.kernel, self.form.stride)
        return kernels.linear(view, self.input.point, self.prepacked()[group], gelu=gelu, requantize=requantize)


def unfit_shape(site: SiteForm | Site) -> str | None:
    """Why the kernels do not run a site of this shape, whatever its grids; None if they do."""
    if site.groups > MOST_GROUPS:
        return f"a convolution in {site.groups} groups: the integer kernels would run them one by one"
    return DILATED if site.dilation != 1 else None


def unfit(site: QuantizedSite) -> str | None:
    """Why the kernels do not run a site; None if they do."""
    if reason := unfit_shape(site.form):
        return reason
    return MID_RISE if site.input_grid().mid_rise and not site.form.unpadded_conv else None


def use_kernels(model: nn.Module) -> dict[str, str]:
    """Run every quantized site on integer kernels, in place, module by module; {site: why not} of the others."""
    sites = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, QuantizedSite) and not isinstance(module, IntegerModule)
    ]
    tables = [module for module in model.modules() if isinstance(module, TableOf)]
    reasons = {name: reason for name, site in sites if (reason := unfit(site))}
    for name, site in sites:
        if name not in reasons:
            module = (IntegerConv if site.form.is_conv else IntegerLinear)(site.form, site.tensors())
            model.set_submodule(name, module.train(site.training))
            for table in tables:
                if table.site is site:
                    table.read(module)
    return reasons
