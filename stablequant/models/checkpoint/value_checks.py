"""Rules for the values of a quantized model's tensors, beyond their names, types and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ...quantization.numerics.integer_grid import unsigned_grid


def value_problems(tensors: Mapping[str, Tensor], input_bits: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each tensor with impossible values; `input_bits` has the sites with the bits of their inputs."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            yield f"{name} has values that are NaN or infinite"
    for site, bits in input_bits.items():
        for name in (f"{site}.scales", f"{site}.input_scale"):
            if name in tensors and not bool((tensors[name] > 0).all()):
                yield f"{name} has values that are not positive"
        point, highest = tensors.get(f"{site}.input_zero_point"), unsigned_grid(bits).high
        if point is not None and not bool(torch.all((point >= 0) & (point <= highest) & (2 * point % 1 == 0))):
            yield f"{site}.input_zero_point is neither a code of its grid (0 to {highest}) nor half-way between two"
