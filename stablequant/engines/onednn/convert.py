"""Swap float modules for integer ones, with values (after calibration) or empty (before a checkpoint is read)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ...foundation.errors import InputError
from ...quantization.numerics.weight_grid import QTensor, WeightFormat
from ...quantization.plan.choice import Choice, Quantized
from .modules import IntegerModule, integer_module


def convert(model: nn.Module, choices: Mapping[str, Choice], weights: Mapping[str, QTensor]) -> nn.Module:
    """Replace, in place, every quantized site by its integer module."""
    for name, choice in choices.items():
        if isinstance(choice, Quantized):
            if choice.input is None:
                raise InputError(f"{name}: only its weight is quantized, which no integer kernel runs")
            weight = weights[name]
            module = integer_module(model.get_submodule(name), choice.input.bits, weight.format.stored)
            model.set_submodule(name, module.fill(choice.input, weight))
    return model


def skeleton(model: nn.Module, formats: Mapping[str, tuple[WeightFormat, int]]) -> nn.Module:
    """Replace, in place, the named sites by empty integer modules that a checkpoint then fills.

    `formats` gives for each site how its codes are stored, and the bits of its input.
    """
    for name, (format, bits) in formats.items():
        try:
            model.set_submodule(name, integer_module(model.get_submodule(name), bits, format))
        except (AttributeError, TypeError) as error:
            raise InputError(f"config.json names a quantized site that this model does not have: {name}") from error
    return model


def integer_sites(model: nn.Module) -> tuple[str, ...]:
    """Names of the sites that run on integer kernels."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, IntegerModule))
