"""A .tsv of two columns: path, tab, text. A header line is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from . import _entries, common_voice, fairseq
from ._entries import Entry, Utterance

TITLE = "a .tsv of two columns (path, text)"
RANK = 0
NAMES = {"path", "file", "filename", "file_name", "audio", "audio_filepath", "wav"}


def detect(path: Path) -> bool:
    """A file only: the .tsv in a folder of recordings may be about anything."""
    if path.suffix != ".tsv" or common_voice.is_table(path) or fairseq.is_manifest(path):
        return False
    return len(_entries.columns(path, "\t")) == 2


def read(path: Path) -> Iterator[Entry]:
    rows = (row for number, row in enumerate(_entries.tsv(path)) if number or not _is_header(row[1]))
    return _entries.parsed(rows, lambda place, cells: _entry(path.parent, place, cells))


def _is_header(cells: list[str]) -> bool:
    return cells[0].strip().lower() in NAMES and cells[-1].strip().lower() in _entries.TEXTS


def _entry(folder: Path, place: str, cells: list[str]) -> Utterance:
    if len(cells) != 2 or not cells[0].strip():
        raise InputError(f"{place}: not a path, a tab and a text; correct the line")
    name, text = (cell.strip() for cell in cells)
    return Utterance(name, _entries.located(folder, name, place), text, None, offset=0.0, duration=None, source=place)
