"""The state of a quantized site: what a checkpoint stores and every engine reads, with a reference implementation.

The tensors have names that no float module uses (never `weight`), so a loader without stablequant fails instead of
reading codes as weights:

    codes, scales     int8 in the shape of the float weight, float32 (out,); or what else the weight's format stores
    input_scale       float32 ()
    input_zero_point  float32 (); half a code less than a whole one on a mid-rise grid (integer_grid.py)
    bias              float32 (out,), 0 where the float module has none

`forward` is the reference: inputs moved to their grid, weights dequantized, the float operator. An engine computes the
same from `input_grid` and `integer_weight`, where every zero point is whole.
"""

from __future__ import annotations

import copy
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..foundation.errors import InputError
from ..quantization.numerics.integer_grid import Grid, fake_quantize, unsigned_grid
from ..quantization.numerics.weight_grid import QTensor, WeightFormat
from ..quantization.plan.choice import Choice, InputChoice, Quantized
from ..quantization.weight_formats.rows import INT8

CAST = (
    "a quantized model has its dtypes already (integers, and float32 between them) and cannot be cast to another; use "
    "it as it is"
)
MOVED = "a quantized model runs on the CPU only; leave it there, in a pipeline with device='cpu'"
PICKLED = "a quantized model cannot be pickled; write it with save_pretrained, and read it with from_pretrained"


@dataclass(frozen=True)
class SiteForm:
    """What is known about a site before it has values; a linear layer has the geometry of a window of one."""

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
    """The grid of the inputs of a site, as numbers."""

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
class IntegerWeight:
    """What an engine multiplies: input scale * scales * sum((input code - zero_point) * codes) + bias."""

    codes: Tensor  # int8, in the shape of the float weight
    scales: Tensor  # float32 (out,)
    bias: Tensor  # float32 (out,), with what half a code of zero point adds to every output on a mid-rise grid


class QuantizedSite(nn.Module):
    """A quantized Linear or Conv1d, grouped or not."""

    codes: Tensor
    scales: Tensor
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, form: SiteForm, tensors: Mapping[str, Tensor]) -> None:
        """A site with these tensors, by their names above."""
        super().__init__()
        self.form = form
        for name, tensor in tensors.items():
            if name != "bias":
                self.register_buffer(name, tensor)
        self.bias = nn.Parameter(tensors["bias"], requires_grad=False)

    @property
    def stride(self) -> tuple[int, ...]:
        """As a convolution has it: code around the site may ask for it."""
        return (self.form.stride,)

    def tensors(self) -> dict[str, Tensor]:
        """All its tensors, by name."""
        return {**dict(self.named_buffers()), "bias": self.bias}

    def fill(self, choice: InputChoice, weight: QTensor) -> QuantizedSite:
        """Take the grid of the input and the rounded weight, which is stored in this site's format."""
        for name, tensor in self.form.format.store(weight, self.form.weight_shape).items():
            self.get_buffer(name).copy_(tensor)
        self.input_scale.fill_(choice.scale)
        self.input_zero_point.fill_(choice.exact_zero)
        self.prepare()
        return self

    def prepare(self) -> None:
        """Recompute what an engine derives from the values; called whenever they have changed."""

    def input_grid(self) -> InputGrid:
        """The grid of the inputs."""
        exact = float(self.input_zero_point)
        whole = math.ceil(exact)
        return InputGrid(float(self.input_scale), whole, whole - exact, unsigned_grid(self.form.input_bits))

    def integer_weight(self) -> IntegerWeight:
        """What an engine multiplies; the bias is right for every window that holds no padding (see `check`)."""
        codes, grid, bias = self.weight_codes(), self.input_grid(), self.bias.detach()
        if grid.mid_rise:
            sums = codes.flatten(1).sum(1, dtype=torch.int64).float()
            bias = bias + grid.below * grid.scale * self.scales * sums
        return IntegerWeight(codes, self.scales, bias)

    def weight_codes(self) -> Tensor:
        """int8 codes in the shape of the float weight."""
        shape = self.form.weight_shape
        return self.form.format.load(self.tensors(), shape).codes.view(shape)

    def check(self, name: str) -> None:
        """InputError when values, as a file may hold them, are none that can be run; padding needs an exact zero."""
        if self.input_grid().mid_rise and not self.form.unpadded_conv:
            raise InputError(
                f"{name}: its input_zero_point is not whole, so the file is damaged; copy or calibrate the model again"
            )
        if problem := self.form.format.problem(self.tensors(), self.form.weight_shape):
            raise InputError(f"{name}: {problem}, the file is damaged; write the model again")

    def forward(self, x: Tensor) -> Tensor:
        """The reference, in float32."""
        grid, form = self.input_grid(), self.form
        x = fake_quantize(x, grid.scale, grid.exact, grid.codes)
        codes = self.weight_codes()
        weight = codes.float() * self.scales.view(-1, *[1] * (codes.ndim - 1))
        if not form.is_conv:
            return F.linear(x, weight, self.bias)
        return F.conv1d(x, weight, self.bias, form.stride, form.padding, form.dilation, form.groups)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(PICKLED)

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedSite:
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes."""
        return dict(self.__dict__)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.prepare()


def keep_as_it_is(model: nn.Module) -> None:
    """Let `.to`, `.bfloat16` and the like refuse a quantized model, or a part of one, before they have changed any."""
    for module in model.modules():
        if any(isinstance(each, QuantizedSite) for each in module.modules()):
            vars(module)["_apply"] = types.MethodType(_applied, module)


def _applied(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    probe = fn(torch.zeros(1))
    if probe.dtype != torch.float32:
        raise ValueError(CAST)
    if probe.device.type != "cpu":
        raise ValueError(MOVED)
    return type(self)._apply(self, fn, recurse)


class TableOf(nn.Module):
    """A table whose rows are those of a quantized site with the same weight: ids (...) -> float32 (..., columns).

    It has no tensors of its own, so the codes are stored, and in memory, once.
    """

    def __init__(self, site: QuantizedSite) -> None:
        super().__init__()
        self.read(site)

    def read(self, site: QuantizedSite) -> None:
        """Read the codes of this site from now on."""
        self._site = (site,)  # in a tuple: not a child, whose tensors would be stored again

    @property
    def site(self) -> QuantizedSite:
        """The site whose codes it reads."""
        return self._site[0]

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of the weight."""
        site = self.site
        names = site.form.format.empty(torch.Size([1, *site.form.weight_shape[1:]]))
        stored = {name: site.get_buffer(name) for name in names}
        rows = site.form.format.take(stored, site.form.weight_shape, ids.flatten())
        return rows.dequantize().view(*ids.shape, rows.codes.shape[1])


def sharing(model: nn.Module, name: str) -> list[str]:
    """The other modules that have the weight of a site, as a table of tokens; on the meta device only named."""
    weight = model.get_submodule(name).weight
    same = {each for each, module in model.named_modules() if getattr(module, "weight", None) is weight}
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    same |= {source.removesuffix(".weight") for target, source in tied.items() if target == f"{name}.weight"}
    return sorted(same - {name})


def _replace(model: nn.Module, name: str, site: QuantizedSite) -> None:
    """Put a site into a model, and a table of its rows into the place of every module that shares its weight."""
    tables = sharing(model, name)
    model.set_submodule(name, site)
    for each in tables:
        model.set_submodule(each, TableOf(site))


def empty_site(source: nn.Module, input_bits: int, format: WeightFormat = INT8) -> QuantizedSite:
    """A site with the geometry and bias of `source`, on its device; `fill` or a checkpoint gives it values."""
    form = _form(source, input_bits, format)
    assert isinstance(source, nn.Linear | nn.Conv1d)
    rows, device = form.weight_shape[0], source.weight.device
    bias = torch.zeros(rows, device=device) if source.bias is None else source.bias.detach()
    with device:
        weight = format.empty(form.weight_shape)
    tensors = weight | {
        "input_scale": torch.ones((), device=device),
        "input_zero_point": torch.zeros((), device=device),
        "bias": bias,
    }
    return QuantizedSite(form, tensors)


def _form(source: nn.Module, input_bits: int, format: WeightFormat) -> SiteForm:
    if isinstance(source, nn.Linear):
        return SiteForm(source.weight.shape, input_bits, format)
    if not isinstance(source, nn.Conv1d):
        raise TypeError(f"a {type(source).__name__} cannot be quantized")
    if isinstance(source.padding, str) or source.padding_mode != "zeros":
        raise TypeError(f"padding {source.padding!r} ({source.padding_mode}) cannot be quantized")
    (stride,), (padding,), (dilation,) = source.stride, source.padding, source.dilation
    return SiteForm(source.weight.shape, input_bits, format, stride, padding, dilation, source.groups)


def convert(model: nn.Module, choices: Mapping[str, Choice], weights: Mapping[str, QTensor]) -> nn.Module:
    """Replace, in place, every site that is quantized in `choices` by its state."""
    for name, choice in choices.items():
        if isinstance(choice, Quantized):
            if choice.input is None:
                raise InputError(f"{name}: only its weight is quantized, which has no state to be stored")
            weight = weights[name]
            site = empty_site(model.get_submodule(name), choice.input.bits, weight.format.stored)
            _replace(model, name, site.fill(choice.input, weight))
    return model


def skeleton(model: nn.Module, formats: Mapping[str, tuple[WeightFormat, int]]) -> nn.Module:
    """Replace, in place, the named sites by empty ones that a checkpoint then fills.

    `formats` gives for each site how its codes are stored, and the bits of its input.
    """
    for name, (format, bits) in formats.items():
        try:
            _replace(model, name, empty_site(model.get_submodule(name), bits, format))
        except (AttributeError, TypeError) as error:
            raise InputError(f"config.json has a quantized site that this model does not have: {name}") from error
    return model
