"""How little the time of an integer model could be (where it goes: engines/onednn/operators/stopwatch.py).

`floor_ms` is the arithmetic alone: the multiply-adds of all integer sites at the rate of the kernel's best matrix,
plus those of attention at the rate of the best one in its format. Nothing else of the model is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stablequant.engines.onednn.operators import attention_products, kernels
from stablequant.models.families.sites import find_sites

BEST = (2048, 2048, 2048)  # rows, inputs, outputs of a matrix product that runs at its best


@torch.inference_mode()
def multiply_adds(model: nn.Module, waveform: torch.Tensor) -> dict[str, int]:
    """Multiply-adds of a prepared float model on a waveform: of its integer sites, and of attention."""
    frames: dict[str, int] = {}
    found = {site.name: site for site in find_sites(model) if site.reason is None}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, site=site: frames.update({site.name: out.numel() // site.out_channels})
        )
        for name, site in found.items()
    ]
    model(waveform)
    for handle in handles:
        handle.remove()
    products = sum(site.macs_per_output_frame * frames.get(name, 0) for name, site in found.items())
    queries = [site for name, site in found.items() if name.endswith("q_proj")]
    return {"products": products, "attention": sum(2 * frames[q.name] ** 2 * q.out_channels for q in queries)}


def floor_ms(work: dict[str, int]) -> float:
    """Milliseconds of the multiply-adds alone."""
    return 1000 * (work["products"] / integer_rate() + work["attention"] / attention_rate())


def integer_rate() -> float:
    """Multiply-adds a second of the integer kernel on its best matrix."""
    rows, inputs, outputs = BEST
    x = torch.randint(0, 256, (rows, inputs), dtype=torch.uint8)
    codes = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    weight = kernels.prepack(codes, torch.full((outputs,), 1e-4), torch.zeros(outputs))
    return rows * inputs * outputs / _best(lambda: kernels.linear(x, (0.1, 128), weight, requantize=(0.1, 128)))


def attention_rate() -> float:
    """Multiply-adds a second of a product in the format that attention uses."""
    rows, inputs, outputs = BEST
    x, y = (torch.randn(shape).to(attention_products.number_format()) for shape in ((rows, inputs), (inputs, outputs)))
    return rows * inputs * outputs / _best(lambda: x @ y)


def _best(function: Callable[[], Any], rounds: int = 30) -> float:
    def timed() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return min(timed() for _ in range(rounds))
