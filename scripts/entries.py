"""Processes of their own for what is measured, so that one does not change what the next finds."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from transformers.utils import logging as transformers_logging

SPAWN = multiprocessing.get_context("spawn")
T = TypeVar("T")


class Entry:
    """A process of its own that does what it is asked, one thing after another."""

    def __init__(self, opened: contextlib.ExitStack) -> None:
        self._process = opened.enter_context(ProcessPoolExecutor(1, SPAWN))

    def ask(self, what: Callable[..., T], *arguments: Any) -> T:
        return self._process.submit(what, *arguments).result()


def alone(what: Callable[..., T], *arguments: Any) -> T:
    """The result of a call in a process that ends with it."""
    with contextlib.ExitStack() as opened:
        return Entry(opened).ask(what, *arguments)


def reason(error: Exception) -> str:
    """Why an entry cannot be built, on one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def quiet() -> None:
    """Keep the libraries' own remarks away from the table."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
