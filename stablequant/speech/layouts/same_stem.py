"""A folder of recordings, at any depth, each with its words in a .txt of the same name, or without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from . import _entries
from ._entries import Entry, Utterance

TITLE = "a folder of recordings with a .txt of the same name beside each"
RANK = 2
LISTS = ("manifest.jsonl", "*.trans.txt", "metadata.csv", "metadata.jsonl", "wav.scp", "*.tsv")  # of other layouts


def detect(path: Path) -> bool:
    return any(map(_entries.is_audio, path.rglob("*"))) if path.is_dir() else False


def read(path: Path) -> Iterator[Entry]:
    recordings = sorted(each for each in path.rglob("*") if _entries.is_audio(each))
    if not any(each.with_suffix(".txt").is_file() for each in recordings):
        _tell_lists(path)
    rows = ((str(each), each) for each in recordings)
    return _entries.parsed(rows, lambda place, each: _entry(path, place, each))


def _tell_lists(path: Path) -> None:
    """Say so where transcripts may be in lists that another folder is read by."""
    lists = sorted(each for pattern in LISTS for each in path.rglob(pattern))
    if lists:
        print(
            f"{path}: recordings without transcripts; {lists[0]}{' and others are' if lists[1:] else ' is'} not read: "
            "give the folder or the list itself to have them",
            file=sys.stderr,
        )


def _entry(folder: Path, place: str, recording: Path) -> Utterance:
    transcript, name = recording.with_suffix(".txt"), recording.relative_to(folder).as_posix()
    text = " ".join(line.strip() for _, line in _entries.lines(transcript)) if transcript.is_file() else None
    return Utterance(name, recording, text, None, offset=0.0, duration=None, source=place)
