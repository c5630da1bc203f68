"""A folder of recordings, at any depth, each with its words in a .txt of the same name, or without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from . import _entries
from ._entries import Entry, Utterance

TITLE = "a folder of recordings, each with a .txt of the same name"
RANK = 2
NOTICES = frozenset({"readme", "license", "licence", "copying", "copyright", "changelog", "notes", "notice", "about"})
LISTS = ("manifest.jsonl", "*.trans.txt", "metadata.csv", "metadata.jsonl", "wav.scp", "*.tsv")  # of other layouts


def detect(path: Path) -> bool:
    return path.is_dir() and any(map(_is_recording, _entries.files_below(path)))


def _is_recording(path: Path) -> bool:
    return _entries.is_audio(path) or _entries.is_unread(path)


def read(path: Path) -> Iterator[Entry]:
    """A recording in an unsupported format is an entry (a problem) if it has a transcript, otherwise only counted."""
    files = sorted(filter(_is_recording, _entries.files_below(path)))
    others = [each for each in files if _entries.is_unread(each) and not each.with_suffix(".txt").is_file()]
    recordings = [each for each in files if each not in set(others)]
    if (sentence := _entries.unread(path, others)) and not recordings:
        raise InputError(sentence)
    if sentence:
        print(sentence, file=sys.stderr)
    if not any(each.with_suffix(".txt").is_file() for each in recordings):
        _tell_lists(path)
    rows = ((str(each), each) for each in recordings)
    yield from _entries.parsed(rows, lambda place, each: _entry(path, place, each))
    yield from _alone(recordings)


def _alone(recordings: list[Path]) -> Iterator[InputError]:
    """Transcripts without a recording. A text in a folder without transcripts, or a notice, may be about anything."""
    transcripts = {each.with_suffix(".txt") for each in recordings}
    for folder in sorted({each.parent for each in transcripts if each.is_file()}):
        for text in sorted(folder.glob("*.txt")):
            if text not in transcripts and not text.name.startswith(".") and text.stem.lower() not in NOTICES:
                yield InputError(f"{text}: a transcript without a recording; add the recording, or remove the text")


def _tell_lists(path: Path) -> None:
    """Say so if the transcripts may be in lists of another layout."""
    lists = sorted(each for pattern in LISTS for each in path.rglob(pattern))
    if lists:
        print(
            f"{path}: the recordings have no transcripts next to them; if they are in {lists[0]}"
            f"{' or other lists here' if lists[1:] else ''}, pass that list or its folder",
            file=sys.stderr,
        )


def _entry(folder: Path, place: str, recording: Path) -> Utterance:
    transcript, name = recording.with_suffix(".txt"), recording.relative_to(folder).as_posix()
    text = " ".join(line.strip() for _, line in _entries.lines(transcript)) if transcript.is_file() else None
    return Utterance(name, recording, text, None, offset=0.0, duration=None, source=place)
