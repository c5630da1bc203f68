"""The package as a library: the verbs as functions, with the fields of their options as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .workflows import calibrate as calibrating
from .workflows import evaluate as evaluating

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")


def _by_fields(options: Callable[P, O], run: Callable[[O], R]) -> Callable[P, R]:
    """`run`, with the fields of its options in the place of the options."""

    def call(*values: P.args, **fields: P.kwargs) -> R:
        return run(options(*values, **fields))

    described: Any = call
    described.__signature__ = inspect.signature(options)
    call.__doc__, call.__name__ = run.__doc__, run.__name__
    return call


calibrate = _by_fields(calibrating.Options, calibrating.calibrate)
evaluate = _by_fields(evaluating.Options, evaluating.evaluate)
