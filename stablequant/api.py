"""The package as a library: the commands as functions, with their options as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .foundation.options import CalibrateOptions, EvaluateOptions, Options, TuneOptions
from .workflows import calibrate as calibrating
from .workflows import evaluate as evaluating
from .workflows import tune as tuning

P = ParamSpec("P")
O = TypeVar("O", bound=Options)  # noqa: E741
R = TypeVar("R")


def _by_fields(options: Callable[P, O], run: Callable[[O], R]) -> Callable[P, R]:
    """`run`, with the fields of its options as arguments."""
    signature = inspect.signature(options)

    def call(*values: P.args, **fields: P.kwargs) -> R:
        made = options(*values, **fields)
        made.refuse_ignored(signature.bind(*values, **fields).arguments)
        return run(made)

    described: Any = call
    described.__signature__ = signature
    call.__doc__, call.__name__ = run.__doc__, run.__name__
    return call


calibrate = _by_fields(CalibrateOptions, calibrating.calibrate)
evaluate = _by_fields(EvaluateOptions, evaluating.evaluate)
tune = _by_fields(TuneOptions, tuning.tune)
