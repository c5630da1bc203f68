"""Common Voice: a .tsv with path and sentence, recordings in clips/ beside it, client_id as speaker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from . import _entries
from ._entries import Entry, Utterance

TITLE = "a Common Voice .tsv (path, sentence; recordings in clips/)"
RANK = 0


def detect(path: Path) -> bool:
    return bool(_entries.find_lists(path, ["*.tsv"], is_table))


def is_table(path: Path) -> bool:
    return path.suffix == ".tsv" and {"path", "sentence"} <= set(_entries.columns(path, "\t"))


def read(path: Path) -> Iterator[Entry]:
    table = _entries.the_list(path, ["*.tsv"], is_table)
    clips = table.parent / "clips"
    folder = clips if clips.is_dir() else table.parent
    return _entries.parsed(_entries.records(_entries.tsv(table)), lambda place, row: _entry(folder, place, row))


def _entry(folder: Path, place: str, row: dict[str, str]) -> Utterance:
    name, text = _entries.name_in(row, "path", place), row["sentence"]
    path = _entries.located(folder, name, place)
    if not path.suffix:  # the first releases left it out
        path = path.with_name(f"{path.name}.mp3")
    return Utterance(name, path, text, _entries.speaker_in(row), offset=0.0, duration=None, source=place)
