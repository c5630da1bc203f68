"""Simulate a plan in float32: weights are moved to their grids, inputs are quantized.

`lower` leaves every quantized site its reference forward; `simulate` does the same to a float model, for a while.
Every step is the arithmetic of the integer engine done in float32 on the same codes (`quantize` is shared), so the two
agree to the rounding of a float sum: sum(scale_x code_x * scale_w code_w) against scale_x scale_w sum(codes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from ..foundation.errors import InputError
from ..quantization.numerics.integer_grid import fake_quantize
from ..quantization.numerics.weight_grid import QTensor
from ..quantization.plan.choice import Choice, InputChoice, Quantized
from ..quantization.plan.site import Site
from .base import Lowered
from .quantized_site import sharing


def refuses(site: Site, choice: Quantized | None = None) -> str | None:
    """None: float operators can run every site."""


def lower(model: nn.Module) -> Lowered:
    """A model with quantized sites, which run in float32 already."""
    return Lowered(model)


@contextmanager
def simulate(model: nn.Module, choices: Mapping[str, Choice], weights: Mapping[str, QTensor]) -> Iterator[nn.Module]:
    """Inside, the sites in `choices` compute as the plan says; outside, the model is as it was, bit for bit."""
    undo: list[Callable[[], None]] = []
    try:
        for name, choice in choices.items():
            if isinstance(choice, Quantized):
                weight = partial(weights.__getitem__, name)
                undo += _quantize_site(_module(model, name), choice.input, weight)
                for each in sharing(model, name):
                    undo += _quantize_site(model.get_submodule(each), None, weight)
        yield model
    finally:
        for step in reversed(undo):
            step()


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the plan has a site that the model does not have: {name}") from error


def _quantize_site(
    module: nn.Module, read: InputChoice | None, weight: Callable[[], QTensor]
) -> list[Callable[[], None]]:
    original = module.weight
    if not isinstance(original, nn.Parameter):
        raise TypeError("a site holds its weight as a parameter; prepare the model first")

    def on_the_way_in(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # In float only while the module runs: a whole model has no room for a second copy of its weights
        module.weight = nn.Parameter(weight().dequantize().view(original.shape), requires_grad=False)
        if read is None:  # a trial of the weight alone
            return inputs
        return (fake_quantize(inputs[0], read.scale, read.exact_zero, read.grid), *inputs[1:])

    def restore(*_: object) -> None:
        module.weight = original

    before = module.register_forward_pre_hook(on_the_way_in)
    after = module.register_forward_hook(restore, always_call=True)
    return [restore, before.remove, after.remove]
