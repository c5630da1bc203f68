"""What `from stablequant import calibrate, evaluate` gives: modules that can be called like the function in them.

A function of that name in the package would last until something imports the module, which Python then puts in its
place; which of both one gets would depend on who imported what first. So the module itself is called, with the fields
of its `Options` as arguments. `stablequant.calibrate.Options` and the like stay what they are.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")


class Task(ModuleType):
    """A module with `Options` and a function of its own name that takes them."""

    def __call__(self, *values: Any, **fields: Any) -> Any:
        return by_fields(self.Options, vars(self)[_last(self.__name__)])(*values, **fields)


def callable_module(name: str) -> None:
    """Make a task of the module `name`, which calls this when all in it is defined."""
    module: Any = sys.modules[name]
    module.__class__ = Task
    module.__signature__ = inspect.signature(module.Options)


def by_fields(options: Callable[P, O], run: Callable[[O], R]) -> Callable[P, R]:
    """`run`, with the fields of its options in the place of the options."""
    return lambda *values, **fields: run(options(*values, **fields))


def _last(name: str) -> str:
    return name.rpartition(".")[2]
