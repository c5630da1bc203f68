"""Standard input (`--data -`): the lines of a NeMo manifest; relative paths start at the current folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from . import _entries, nemo
from ._entries import Entry

TITLE = "the lines of a NeMo manifest on standard input (-)"
RANK = 0
NAME = "standard input"


def detect(path: Path) -> bool:
    """Only `-` itself; a file of that name cannot be distinguished, as everywhere on the command line."""
    return str(path) == "-"


def read(path: Path) -> Iterator[Entry]:
    rows = _entries.numbered(_entries.decoded(sys.stdin.buffer.read(), NAME), NAME)
    return _entries.parsed(rows, lambda place, line: nemo.entry(Path(), place, line))
