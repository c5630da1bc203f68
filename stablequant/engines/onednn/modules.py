"""Integer modules: the state of a quantized site and its forward, module by module.

The state is what a checkpoint stores, under names that no float module uses (never `weight`), so a loader without
stablequant fails instead of reading codes as weights:

    codes, scales     int8 in the shape of the float weight, float32 (out,); or what else the weight's format stores
    input_scale       float32 ()
    input_zero_point  float32 (); half a code less than a whole one on a mid-rise grid (grid.py)
    bias              float32 (out,), 0 where the float module has none

Weights are expanded to int8 and packed for the kernel on the first call and kept; the portable codes stay, so saving
writes the same bytes. Codes that are mapped from a checkpoint take no memory beside their packed form: their pages
are given back.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...foundation.errors import InputError
from ...foundation.memory_pages import drop_mapped
from ...quantization.numerics.activation_grid import quantize, unsigned_grid
from ...quantization.numerics.weight_grid import QTensor, WeightFormat
from ...quantization.numerics.weight_rows import INT8
from ...quantization.plan.choice import InputChoice
from . import kernels
from .kernels import Prepacked


class IntegerModule(nn.Module):
    """What every integer site has in common; a subclass says how to pack and run."""

    codes: Tensor
    scales: Tensor
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, source: nn.Linear | nn.Conv1d, input_bits: int, format: WeightFormat = INT8) -> None:
        """An empty module with the geometry of `source`, on its device; `fill` or a checkpoint gives it values."""
        super().__init__()
        device = source.weight.device
        out_channels = source.weight.shape[0]
        self.input_bits, self.format, self.weight_shape = input_bits, format, source.weight.shape
        with device:
            stored = format.empty(self.weight_shape)
        self._stored = tuple(stored)
        for name, tensor in stored.items():
            self.register_buffer(name, tensor)
        self.register_buffer("input_scale", torch.ones((), device=device))
        self.register_buffer("input_zero_point", torch.zeros((), device=device))
        bias = torch.zeros(out_channels, device=device) if source.bias is None else source.bias.detach()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.forget()

    def fill(self, choice: InputChoice, weight: QTensor) -> IntegerModule:
        """Take the values of a plan's choice and its rounded weight, which is stored in this module's format."""
        for name, tensor in self.format.store(weight, self.weight_shape).items():
            self.get_buffer(name).copy_(tensor)
        self.input_scale.fill_(choice.scale)
        self.input_zero_point.fill_(choice.exact_zero)
        self.forget()
        return self

    def forget(self) -> None:
        """Drop what was derived from the values, because they change."""
        self._prepacked: tuple[Prepacked, ...] | None = None
        self._joined: Prepacked | None = None
        self._grid_point: tuple[float, int] | None = None
        self._below = 0.0  # codes from the exact zero point up to the whole one

    @property
    def input_grid_point(self) -> tuple[float, int]:
        """Scale and zero point of the input as numbers, read once; on a mid-rise grid zero is half a code less."""
        if self._grid_point is None:
            exact = float(self.input_zero_point)
            self._grid_point, self._below = (float(self.input_scale), math.ceil(exact)), math.ceil(exact) - exact
        return self._grid_point

    @property
    def mid_rise(self) -> bool:
        """Whether the zero of the input lies between two codes."""
        return self.input_grid_point is not None and self._below > 0

    def weight_codes(self) -> Tensor:
        """int8 codes in the shape of the float weight."""
        return self.format.load(self._tensors(), self.weight_shape).codes.view(self.weight_shape)

    def _tensors(self) -> dict[str, Tensor]:
        """The weight as it is stored."""
        return {name: self.get_buffer(name) for name in self._stored}

    def check(self, name: str) -> None:
        """InputError when values, as a file may hold them, are none that this module can run."""
        if self.mid_rise:
            raise InputError(f"{name}: its input_zero_point is not whole, the file is damaged; write the model again")
        self._check_weight(name)

    def _check_weight(self, name: str) -> None:
        if problem := self.format.problem(self._tensors()):
            raise InputError(f"{name}: {problem}, the file is damaged; write the model again")

    def prepacked(self) -> tuple[Prepacked, ...]:
        """The weight as the kernel wants it, one tensor for each group."""
        if self._prepacked is None:
            self._prepacked = self._prepack()
            drop_mapped(self.codes)
        return self._prepacked

    def quantize_input(self, x: Tensor, out: Tensor | None = None, *, spend: bool = False) -> Tensor:
        """uint8 codes of a float32 input, same shape and memory order; `spend` lets the input be overwritten."""
        scale, zero_point = self.input_grid_point
        return quantize(x, scale, zero_point - self._below, unsigned_grid(self.input_bits), out, spend=spend)

    def quantize_rows(self, x: Tensor) -> Tensor:
        """uint8 codes of float rows (n, C), with room up to a round number of rows."""
        codes = x.new_empty((kernels.round_rows(len(x)), x.shape[1]), dtype=torch.uint8)
        self.quantize_input(x, codes[: len(x)])
        return codes

    def _prepack(self) -> tuple[Prepacked, ...]:
        raise NotImplementedError

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: the packed weight can not be copied, and is packed again from the codes."""
        return {**self.__dict__, "_prepacked": None, "_joined": None, "_grid_point": None}


class IntegerLinear(IntegerModule):
    """x (..., in) float32 -> (..., out) float32."""

    def _prepack(self) -> tuple[Prepacked, ...]:
        return (kernels.prepack(self.weight_codes(), self.scales, self.bias.detach()),)

    def joined(self, *others: IntegerLinear) -> Prepacked:
        """The weights of this and other modules with the same input as one; it is packed once, with this module's."""
        if self._joined is None:
            parts = [self, *others]
            codes = torch.cat([each.weight_codes() for each in parts])
            scales = torch.cat([each.scales for each in parts])
            self._joined = kernels.prepack(codes, scales, torch.cat([each.bias.detach() for each in parts]))
            for each in parts:
                drop_mapped(each.codes)
        return self._joined

    def forward(self, x: Tensor) -> Tensor:
        """Quantize the input, multiply integers, return float32."""
        rows = x.reshape(-1, x.shape[-1])
        out = kernels.linear(self.quantize_rows(rows), self.input_grid_point, self.prepacked()[0])
        return out[: len(rows)].view(*x.shape[:-1], -1)


class IntegerConv(IntegerModule):
    """A Conv1d, grouped or not: x (B, C, T) float32 -> (B, out, frames) float32 in channels-last memory."""

    def __init__(self, source: nn.Conv1d, input_bits: int, format: WeightFormat = INT8) -> None:
        super().__init__(source, input_bits, format)
        self.kernel, self.stride, self.padding = source.kernel_size[0], source.stride[0], int(source.padding[0])
        self.groups = source.groups

    def check(self, name: str) -> None:
        """As every module; where nothing is padded the grid may be mid-rise."""
        if self.padding:
            super().check(name)
        self._check_weight(name)

    def _prepack(self) -> tuple[Prepacked, ...]:
        # (out, kernel * in / groups), as a window lies in memory
        rows = self.weight_codes().transpose(1, 2).flatten(1)
        parts = zip(*(x.chunk(self.groups) for x in (rows, self.scales, self._kernel_bias(rows))), strict=True)
        return tuple(kernels.prepack(codes, scales, bias) for codes, scales, bias in parts)

    def _kernel_bias(self, rows: Tensor) -> Tensor:
        """The bias, and what half a code less of zero point adds to every output of a mid-rise input."""
        if not self.mid_rise:
            return self.bias.detach()
        below = self._below * float(self.input_scale)
        return self.bias.detach() + below * self.scales * rows.sum(1, dtype=torch.int64).float()

    def forward(self, x: Tensor) -> Tensor:
        """Quantize the input, multiply integers window by window, return float32."""
        batch, _, length = x.shape
        codes = self.quantize_input(x).reshape(batch, self.groups, -1, length).transpose(2, 3).contiguous()
        return torch.stack([self._utterance(utterance) for utterance in codes]).transpose(1, 2)

    def _utterance(self, codes: Tensor) -> Tensor:
        """uint8 (groups, T, C / groups) -> float32 (frames, out)."""
        if self.padding:
            codes = F.pad(codes, (0, 0, self.padding, self.padding), value=self.input_grid_point[1])
        return torch.cat([self.rows(group, number) for number, group in enumerate(codes)], dim=1)

    def rows(
        self, codes: Tensor, group: int = 0, *, gelu: bool = False, requantize: tuple[float, int] | None = None
    ) -> Tensor:
        """One group of one utterance, padded, channels-last: uint8 (T, C / groups) -> (frames, out / groups)."""
        view = kernels.windows(codes, self.kernel, self.stride)
        return kernels.linear(view, self.input_grid_point, self.prepacked()[group], gelu=gelu, requantize=requantize)


def integer_module(source: nn.Module, input_bits: int, format: WeightFormat = INT8) -> IntegerModule:
    """The empty integer module for a float one."""
    if isinstance(source, nn.Linear):
        return IntegerLinear(source, input_bits, format)
    if isinstance(source, nn.Conv1d):
        return IntegerConv(source, input_bits, format)
    raise TypeError(f"no integer module for {type(source).__name__}")
