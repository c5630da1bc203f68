"""The plan in float32: weights moved to their grids, inputs quantized on the way in.

`lower` leaves every quantized site its reference forward; `simulate` does the same to a float model, for a while.
Every step is the arithmetic of the integer engine done in float32 on the same codes (grid.quantize is shared), so the
two agree to the rounding of a float sum: sum(scale_x code_x * scale_w code_w) against scale_x scale_w sum(codes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from ..foundation.errors import InputError
from ..quantization.numerics.activation_grid import fake_quantize
from ..quantization.numerics.weight_grid import QTensor
from ..quantization.plan.choice import Choice
from ..quantization.plan.site import Site
from .base import Lowered


def refuses(site: Site, choice: Choice) -> str | None:
    """None: float operators run whatever has a state."""


def lower(model: nn.Module) -> Lowered:
    """A model with quantized sites, which run in float32 already."""
    return Lowered(model)


@contextmanager
def simulate(model: nn.Module, choices: Mapping[str, Choice], weights: Mapping[str, QTensor]) -> Iterator[nn.Module]:
    """Inside, the model computes as the plan says at the sites in `choices`; outside, it is as it was, bit for bit."""
    undo: list[Callable[[], None]] = []
    try:
        for name, choice in choices.items():
            if choice.quantized:
                undo += _quantize_site(_module(model, name), choice, partial(weights.__getitem__, name))
        yield model
    finally:
        for step in reversed(undo):
            step()


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the plan names a site that the model does not have: {name}") from error


def _quantize_site(module: nn.Module, choice: Choice, weight: Callable[[], QTensor]) -> list[Callable[[], None]]:
    original = module.weight
    if not isinstance(original, nn.Parameter):
        raise TypeError("a site holds its weight as a parameter; prepare the model first")

    def on_the_way_in(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # In float only while the module runs: a whole model has no room for a second copy of its weights
        module.weight = nn.Parameter(weight().dequantize().view(original.shape), requires_grad=False)
        if choice.input_bits is None:  # a trial of the weight alone
            return inputs
        x = fake_quantize(inputs[0], choice.input_scale, choice.input_zero_point, choice.input_grid)
        return (x, *inputs[1:])

    def restore(*_: object) -> None:
        module.weight = original

    before = module.register_forward_pre_hook(on_the_way_in)
    after = module.register_forward_hook(restore, always_call=True)
    return [restore, before.remove, after.remove]
