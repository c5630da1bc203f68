"""Where the time of an integer model goes: parts of the engine are marked with `timed`, one stopwatch adds them up.

Everything that runs inside a part counts towards it. Without a stopwatch a mark costs a call.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Seconds by part; only the outermost part that runs is counted."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = False

    def measure(self, part: str, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Call a function, and add its time to a part."""
        if self._running:
            return function(*arguments, **keywords)
        self._running, start = True, time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            self.seconds[part] += time.perf_counter() - start
            self._running = False


_watching: Stopwatch | None = None


def timed(part: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Count the time of a function of the engine towards a part."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def marked(*arguments: P.args, **keywords: P.kwargs) -> R:
            if _watching is None:
                return function(*arguments, **keywords)
            return _watching.measure(part, function, *arguments, **keywords)

        return marked

    return mark


@contextmanager
def watched() -> Iterator[Stopwatch]:
    """Inside, the engine's parts are timed."""
    global _watching
    before, _watching = _watching, Stopwatch()
    try:
        yield _watching
    finally:
        _watching = before


@torch.inference_mode()
def time_split(forward: Callable[[], object], rounds: int = 7) -> dict[str, float]:
    """Milliseconds by part for a forward pass, medians over the rounds; "rest" is what no part covers."""
    found = []
    for number in range(rounds + 2):
        with watched() as stopwatch:
            start = time.perf_counter()
            forward()
            whole = time.perf_counter() - start
        if number > 1:  # the first two warm up
            found.append(stopwatch.seconds | {"rest": whole - sum(stopwatch.seconds.values())})
    return {part: 1000 * statistics.median(each.get(part, 0.0) for each in found) for part in found[0]}
