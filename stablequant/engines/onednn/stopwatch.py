"""Where the time of an integer model goes: one waveform answered with a stopwatch around the engine's parts.

What runs inside a part counts to it.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import attention, encoder, extractor, kernels, modules

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
def time_split(model: nn.Module, waveform: Tensor, rounds: int = 7) -> dict[str, float]:
    """Milliseconds by part for a waveform (1, samples), medians over the rounds; "rest" is what no part covers."""
    found = []
    for number in range(rounds + 2):
        with watched() as stopwatch:
            start = time.perf_counter()
            model(waveform)
            whole = time.perf_counter() - start
        if number > 1:  # the first two warm up
            found.append(stopwatch.seconds | {"rest": whole - sum(stopwatch.seconds.values())})
    return {part: 1000 * statistics.median(each.get(part, 0.0) for each in found) for part in found[0]}
