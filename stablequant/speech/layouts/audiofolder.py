"""Hugging Face audiofolder: metadata.csv or metadata.jsonl with file_name and transcription, text or sentence.

It lies beside the recordings or, as one split, in a folder of its own (`train/metadata.csv`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...foundation.strict_json import JsonObject
from . import _entries
from ._entries import Entry, Utterance

TITLE = "a Hugging Face audiofolder (metadata.csv or metadata.jsonl with file_name)"
RANK = 0
PATTERNS = ("metadata.csv", "metadata.jsonl", "*/metadata.csv", "*/metadata.jsonl")


def detect(path: Path) -> bool:
    return bool(_entries.find_lists(path, PATTERNS, is_metadata))


def is_metadata(path: Path) -> bool:
    """Whether the first line has a file_name."""
    if path.suffix == ".csv":
        return "file_name" in _entries.columns(path, ",")
    return path.suffix == ".jsonl" and any('"file_name"' in line for line in _entries.head(path))


def read(path: Path) -> Iterator[Entry]:
    metadata = _entries.the_list(path, PATTERNS, is_metadata)

    def entry(place: str, row: JsonObject) -> Utterance:
        return _entry(metadata.parent, place, row)

    if metadata.suffix == ".csv":
        return _entries.parsed(_entries.records(_entries.csv_rows(metadata)), entry)
    rows = _entries.lines(metadata)
    return _entries.parsed(rows, lambda place, line: entry(place, _entries.json_object(place, line)))


def _entry(folder: Path, place: str, row: JsonObject) -> Utterance:
    name, text = _entries.name_in(row, "file_name", place), _entries.text_in(row, _entries.TEXTS, place)
    return Utterance(
        name,
        _entries.located(folder, name, place),
        text,
        _entries.speaker_in(row),
        offset=0.0,
        duration=None,
        source=place,
    )
