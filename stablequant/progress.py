"""Progress on stderr: a moving bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(*iterable: Any, **settings: Any) -> Any:
    """A tqdm bar; `settings` are tqdm's."""
    terminal = sys.stderr.isatty()
    return tqdm(*iterable, mininterval=0.5 if terminal else 30.0, miniters=1, ascii=not terminal, **settings)
