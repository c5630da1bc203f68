"""The state of a quantized site: what a checkpoint stores, what every engine reads, and what it means.

The tensors have names that no float module uses (never `weight`), so a loader without stablequant fails instead of
reading codes as weights:

    codes             int8, in the shape of the float weight; or 4 bits and fewer packed into uint8 bytes, with
    steps, offsets    uint8 and int8 (out, groups), as weight_grid.py says; offsets only where a format has its own
    scales            float32 (out,)
    input_scale       float32 ()
    input_zero_point  float32 (); half a code less than a whole one on a mid-rise grid (activation_grid.py)
    bias              float32 (out,), 0 where the float module has none

`forward` is the reference: inputs moved to their grid, weights dequantized, the float operator. An engine computes the
same from `input_grid` and `product`, where every zero point is whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..foundation.errors import InputError
from ..quantization.numerics import bitpack, weight_grid
from ..quantization.numerics.activation_grid import Grid, fake_quantize, unsigned_grid
from ..quantization.numerics.weight_grid import QTensor, WeightFormat
from ..quantization.plan.choice import Choice

INT8 = WeightFormat(8)


@dataclass(frozen=True)
class Form:
    """What of a site is known before it has values; a linear layer has the geometry of a window of one."""

    weight_shape: torch.Size  # of the float weight
    input_bits: int
    format: WeightFormat
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def is_conv(self) -> bool:
        return len(self.weight_shape) == 3

    @property
    def unpadded_conv(self) -> bool:
        return self.is_conv and not self.padding


@dataclass(frozen=True)
class InputGrid:
    """Where the inputs of a site lie, as numbers."""

    scale: float
    zero_point: int  # what products subtract
    below: float  # half a code on a mid-rise grid: so far below `zero_point` zero really lies; else 0
    codes: Grid

    @property
    def exact(self) -> float:
        """The zero point that inputs are quantized with."""
        return self.zero_point - self.below

    @property
    def mid_rise(self) -> bool:
        """Whether zero lies between two codes."""
        return self.below > 0

    @property
    def point(self) -> tuple[float, int]:
        """Scale and zero point."""
        return self.scale, self.zero_point


@dataclass(frozen=True)
class Product:
    """What an engine multiplies: input scale * scales * sum((input code - zero_point) * codes) + bias."""

    codes: Tensor  # int8, in the shape of the float weight
    scales: Tensor  # float32 (out,)
    bias: Tensor  # float32 (out,), with what half a code of zero point adds to every output on a mid-rise grid


class QuantizedSite(nn.Module):
    """A quantized Linear or Conv1d, grouped or not."""

    codes: Tensor
    steps: Tensor
    offsets: Tensor
    scales: Tensor
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, form: Form, tensors: Mapping[str, Tensor]) -> None:
        """A site that holds these tensors, by their names above."""
        super().__init__()
        self.form = form
        for name, tensor in tensors.items():
            if name != "bias":
                self.register_buffer(name, tensor)
        self.bias = nn.Parameter(tensors["bias"], requires_grad=False)

    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by name."""
        return {**dict(self.named_buffers()), "bias": self.bias}

    def fill(self, choice: Choice, weight: QTensor) -> QuantizedSite:
        """Take the values of a plan's choice and its rounded weight, which is of this site's format."""
        if weight.grid is None:
            self.codes.copy_(weight.codes.view(self.codes.shape))
        else:
            self.codes.copy_(bitpack.pack(weight_grid.contract(weight.codes, weight.grid), self.form.format.bits))
            self.steps.copy_(weight.grid.steps)
            if self.form.format.asymmetric:
                self.offsets.copy_(weight.grid.offsets)
        self.scales.copy_(weight.scale)
        self.input_scale.fill_(choice.input_scale)
        self.input_zero_point.fill_(choice.input_zero_point)
        self.prepare()
        return self

    def prepare(self) -> None:
        """What an engine derives from the values is made anew; called whenever they have changed."""

    def input_grid(self) -> InputGrid:
        """Where the inputs lie."""
        exact = float(self.input_zero_point)
        whole = math.ceil(exact)
        return InputGrid(float(self.input_scale), whole, whole - exact, unsigned_grid(self.form.input_bits))

    def product(self) -> Product:
        """What an engine multiplies; the bias is right for every window that holds no padding (see `check`)."""
        codes, grid, bias = self.weight_codes(), self.input_grid(), self.bias.detach()
        if grid.mid_rise:
            sums = codes.flatten(1).sum(1, dtype=torch.int64).float()
            bias = bias + grid.below * grid.scale * self.scales * sums
        return Product(codes, self.scales, bias)

    def weight_codes(self) -> Tensor:
        """int8 codes in the shape of the float weight."""
        if not self.form.format.dense:
            return self.codes
        rows, columns = self.form.weight_shape[0], self.form.weight_shape[1:].numel()
        codes = bitpack.unpack(self.codes, self.form.format.bits, rows * columns).view(rows, columns)
        expanded = weight_grid.expand(codes, self.steps, self._group_offsets(), self.form.format.size(columns))
        return expanded.view(self.form.weight_shape)

    def _group_offsets(self) -> Tensor:
        format = self.form.format
        return self.offsets if format.asymmetric else weight_grid.symmetric_offsets(self.steps, format)

    def check(self, name: str) -> None:
        """InputError when values, as a file may hold them, are none that can be run.

        Steps and offsets must not leave the int8 range that codes expand to, and padding needs an exact zero.
        """
        if self.input_grid().mid_rise and not self.form.unpadded_conv:
            raise InputError(f"{name}: its input_zero_point is not whole, the file is damaged; write the model again")
        if not self.form.format.dense:
            return
        steps, low = self.steps.to(torch.int16), self._group_offsets().to(torch.int16)
        high = low + steps * self.form.format.top
        if bool((steps < 1).any() or (low < -weight_grid.LARGEST).any() or (high > weight_grid.LARGEST).any()):
            raise InputError(f"{name}: its weights do not expand to int8, the file is damaged; write the model again")

    def forward(self, x: Tensor) -> Tensor:
        """The reference, in float32."""
        grid, form = self.input_grid(), self.form
        x = fake_quantize(x, grid.scale, grid.exact, grid.codes)
        codes = self.weight_codes()
        weight = codes.float() * self.scales.view(-1, *[1] * (codes.ndim - 1))
        if not form.is_conv:
            return F.linear(x, weight, self.bias)
        return F.conv1d(x, weight, self.bias, form.stride, form.padding, form.dilation, form.groups)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.prepare()


def empty_site(source: nn.Module, input_bits: int, format: WeightFormat = INT8) -> QuantizedSite:
    """A site with the geometry and bias of `source`, on its device; `fill` or a checkpoint gives it values."""
    form = _form(source, input_bits, format)
    assert isinstance(source, nn.Linear | nn.Conv1d)
    rows, device = form.weight_shape[0], source.weight.device
    bias = torch.zeros(rows, device=device) if source.bias is None else source.bias.detach()
    tensors = _empty_codes(form, device) | {
        "scales": torch.ones(rows, device=device),
        "input_scale": torch.ones((), device=device),
        "input_zero_point": torch.zeros((), device=device),
        "bias": bias,
    }
    return QuantizedSite(form, tensors)


def _form(source: nn.Module, input_bits: int, format: WeightFormat) -> Form:
    if isinstance(source, nn.Linear):
        return Form(source.weight.shape, input_bits, format)
    if not isinstance(source, nn.Conv1d):
        raise TypeError(f"a {type(source).__name__} cannot be quantized")
    if isinstance(source.padding, str) or source.padding_mode != "zeros":
        raise TypeError(f"padding {source.padding!r} ({source.padding_mode}) cannot be quantized")
    (stride,), (padding,), (dilation,) = source.stride, source.padding, source.dilation
    return Form(source.weight.shape, input_bits, format, stride, padding, dilation, source.groups)


def _empty_codes(form: Form, device: torch.device) -> dict[str, Tensor]:
    if not form.format.dense:
        return {"codes": torch.zeros(form.weight_shape, dtype=torch.int8, device=device)}
    rows, columns = form.weight_shape[0], form.weight_shape[1:].numel()
    groups, size = form.format.groups(columns), bitpack.packed_bytes(rows * columns, form.format.bits)
    tensors = {
        "codes": torch.zeros(size, dtype=torch.uint8, device=device),
        "steps": torch.ones(rows, groups, dtype=torch.uint8, device=device),
    }
    if form.format.asymmetric:
        tensors["offsets"] = torch.zeros(rows, groups, dtype=torch.int8, device=device)
    return tensors


def convert(model: nn.Module, choices: Mapping[str, Choice], weights: Mapping[str, QTensor]) -> nn.Module:
    """Replace, in place, every site that is quantized in `choices` by its state."""
    for name, choice in choices.items():
        if choice.quantized:
            site = empty_site(model.get_submodule(name), choice.input_grid.bits, storage(weights[name]))
            model.set_submodule(name, site.fill(choice, weights[name]))
    return model


def storage(weight: QTensor) -> WeightFormat:
    """How the codes of a weight are stored: in int8, or packed."""
    return INT8 if weight.grid is None else weight.grid.format


def skeleton(model: nn.Module, formats: Mapping[str, tuple[WeightFormat, int]]) -> nn.Module:
    """Replace, in place, the named sites by empty ones that a checkpoint then fills.

    `formats` gives for each site how its codes are stored, and the bits of its input.
    """
    for name, (format, bits) in formats.items():
        try:
            model.set_submodule(name, empty_site(model.get_submodule(name), bits, format))
        except (AttributeError, TypeError) as error:
            raise InputError(f"config.json names a quantized site that this model does not have: {name}") from error
    return model
