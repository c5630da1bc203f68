"""Where the time of an integer model goes, and how little it could be.

`time_split` answers one waveform with a stopwatch around the engine's parts; what runs inside a part counts to it.
`floor_ms` is the arithmetic alone: the multiply-adds of all integer sites at the rate of the kernel's best matrix,
plus those of attention at the rate of the best one in its format. Nothing else of the model is in it.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stablequant import sites
from stablequant.engine import attention, encoder, extractor, kernels, modules

PARTS = (  # part, module of the engine, its function
    ("extractor", extractor, "_utterance"),
    ("positional", encoder, "_position"),
    ("products", kernels, "linear"),
    ("products", kernels, "linear_plus"),
    ("attention", attention, "attend"),
    ("attention", attention, "attend_relative"),
    ("attention", encoder, "_gate"),
    ("quantize", modules, "quantize"),
    ("norms", encoder, "_norm"),
)
BEST = (2048, 2048, 2048)  # rows, inputs, outputs of a matrix product that runs at its best


class Stopwatch:
    """Seconds by part; only the outermost part that runs is counted."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = False

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._running:
                return function(*arguments, **keywords)
            self._running, start = True, time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[part] += time.perf_counter() - start
                self._running = False

        return timed


@contextmanager
def watched() -> Iterator[Stopwatch]:
    """Inside, the engine's parts are timed."""
    stopwatch = Stopwatch()
    plain = [(module, name, getattr(module, name)) for _, module, name in PARTS]
    try:
        for part, module, name in PARTS:
            setattr(module, name, stopwatch.around(part, getattr(module, name)))
        yield stopwatch
    finally:
        for module, name, function in plain:
            setattr(module, name, function)


@torch.inference_mode()
def time_split(model: nn.Module, waveform: torch.Tensor, rounds: int = 7) -> dict[str, float]:
    """Milliseconds by part, medians over the rounds; "rest" is what no part covers."""
    found = []
    for number in range(rounds + 2):
        with watched() as stopwatch:
            start = time.perf_counter()
            model(waveform)
            whole = time.perf_counter() - start
        if number > 1:  # the first two warm up
            found.append(stopwatch.seconds | {"rest": whole - sum(stopwatch.seconds.values())})
    return {part: 1000 * statistics.median(each.get(part, 0.0) for each in found) for part in found[0]}


@torch.inference_mode()
def multiply_adds(model: nn.Module, waveform: torch.Tensor) -> dict[str, int]:
    """Multiply-adds of a prepared float model on a waveform: of its integer sites, and of attention."""
    frames: dict[str, int] = {}
    found = {site.name: site for site in sites.discover(model) if site.reason is None}
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
    weight = kernels.pack(codes, torch.full((outputs,), 1e-4), torch.zeros(outputs))
    return rows * inputs * outputs / _best(lambda: kernels.linear(x, (0.1, 128), weight, requantize=(0.1, 128)))


def attention_rate() -> float:
    """Multiply-adds a second of a product in the format that attention uses."""
    rows, inputs, outputs = BEST
    x, y = (torch.randn(shape).to(attention.number_format()) for shape in ((rows, inputs), (inputs, outputs)))
    return rows * inputs * outputs / _best(lambda: x @ y)


def _best(function: Callable[[], Any], rounds: int = 30) -> float:
    def timed() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return min(timed() for _ in range(rounds))
