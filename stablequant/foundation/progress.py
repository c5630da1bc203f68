"""Progress on stderr: a moving bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable

from tqdm import tqdm

_open: weakref.WeakSet[tqdm] = weakref.WeakSet()


def bar(*iterable: Iterable[object], **settings: object) -> tqdm:
    """A tqdm bar; `settings` are tqdm's."""
    terminal = sys.stderr.isatty()
    made = tqdm(*iterable, mininterval=0.5 if terminal else 30.0, miniters=1, ascii=not terminal, **settings)
    _open.add(made)
    return made


def close() -> None:
    """End the line of an unfinished bar, so that a message does not continue it."""
    for each in list(_open):
        each.close()
