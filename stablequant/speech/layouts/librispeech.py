"""LibriSpeech: speaker/chapter/*.trans.txt, each line an id and its words, with id.flac (or another format) beside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from . import _entries
from ._entries import Entry, Utterance

TITLE = "a LibriSpeech folder (speaker/chapter/*.trans.txt), or one speaker's or chapter's"
RANK = 1


def detect(path: Path) -> bool:
    return any(_transcripts(path)) if path.is_dir() else False


def read(path: Path) -> Iterator[Entry]:
    for transcript in _transcripts(path):
        try:
            yield from _chapter(transcript)
        except InputError as error:  # one file in another encoding spoils its chapter, not the others
            yield error


def _transcripts(path: Path) -> list[Path]:
    """Of a whole set, else of the folder of one speaker, else of one chapter."""
    patterns = ("*/*/*.trans.txt", "*/*.trans.txt", "*.trans.txt")
    return next((found for pattern in patterns if (found := sorted(path.glob(pattern)))), [])


def _chapter(transcript: Path) -> Iterator[Entry]:
    """The recordings of its lines, and those in its folder that no line names, which have no transcript."""
    folder = transcript.parent
    files = sorted(folder.iterdir(), reverse=True)
    recordings = {each.stem: each for fits in (_entries.is_unread, _entries.is_audio) for each in filter(fits, files)}

    def entry(place: str, line: str) -> Utterance:
        name, _, text = line.strip().partition(" ")
        path = recordings.get(name, folder / f"{name}.flac")
        return Utterance(name, path, text.strip(), folder.parent.name, offset=0.0, duration=None, source=place)

    entries = list(_entries.parsed(_entries.lines(transcript), entry))
    named = {each.id for each in entries if isinstance(each, Utterance)}
    alone = len(list(folder.glob("*.trans.txt"))) == 1  # else another list may name the rest
    yield from entries
    for name in sorted(recordings.keys() - named) if alone else ():
        yield Utterance(
            name, recordings[name], None, folder.parent.name, offset=0.0, duration=None, source=str(transcript)
        )
