"""Float results that do not depend on the number of threads, so that calibration decides the same with any number.

Two things make the last bits of a float depend on threads, and a range or a choice between two scores on those bits:

- MKL splits long sums between threads, unless the environment variable in PRODUCTS is set before its first product.
- At the end of each thread's share of a tensor torch computes functions such as GELU with other instructions, and
  oneDNN picks its algorithm for a grouped convolution by the number of threads. Inside `Reproducible` these run on one
  thread; they are a small part of a forward pass. (Use it around forward passes only: it slows every call a little.)

Found by comparing the operations of the model families with 1, 2, 3, 4 and 8 threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = ("MKL_CBWR", "AUTO,STRICT")
ALONE = frozenset({F.gelu, torch.sigmoid, torch.Tensor.sigmoid, torch.tanh, torch.Tensor.tanh, F.silu})


class Reproducible(TorchFunctionMode):
    """Inside, operations whose results would depend on the number of threads run on one thread."""

    def __enter__(self) -> Any:
        os.environ.setdefault(*PRODUCTS)  # too late where MKL has computed before; the command line is in time
        return super().__enter__()

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not (function in ALONE or (function is F.conv1d and _groups(args, kwargs or {}) > 1)):
            return function(*args, **(kwargs or {}))
        with one_thread():
            return function(*args, **(kwargs or {}))


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _groups(args: Any, kwargs: dict[str, Any]) -> int:
    """The number of groups that `conv1d(input, weight, bias, stride, padding, dilation, groups)` is called with."""
    groups: int = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    return groups
