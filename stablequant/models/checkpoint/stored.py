"""The weights of a quantized folder, as they are stored: integers, and biases and norms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...foundation.errors import InputError
from ...quantization.numerics.weight_grid import QTensor
from ...quantization.plan.choice import Quantized


def stored_weights(folder: Path, model: Any, choices: Mapping[str, Quantized]) -> dict[str, QTensor]:
    """The weights of the quantized sites of a float `model`, from the folder with its quantized form.

    InputError if the folder is of another model.
    """
    tensors = _tensors(folder)
    return {name: _weight(folder, model, name, choice, tensors) for name, choice in choices.items()}


def stored_vectors(folder: Path, model: Any) -> dict[str, Tensor]:
    """The biases and norms of a float `model`, from the folder with its quantized form: training may change them."""
    tensors = _tensors(folder)
    return {name: tensors[name] for name, each in model.named_parameters() if each.ndim == 1 and name in tensors}


def _weight(folder: Path, model: Any, name: str, choice: Quantized, tensors: Mapping[str, Tensor]) -> QTensor:
    try:
        shape, format = model.get_submodule(name).weight.shape, choice.weight.format
        wanted = format.stored.empty(shape)
        found = {each: tensors[f"{name}.{each}"] for each in wanted}
    except (AttributeError, KeyError) as error:
        raise InputError(
            f"{folder}: has no weights for {name}; pass a folder that was made from this model"
        ) from error
    if any(found[each].shape != wanted[each].shape for each in wanted):
        raise InputError(f"{folder}: {name} has another shape; pass a folder that was made from this model")
    return format.load(found, shape)


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
    return found
