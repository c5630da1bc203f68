"""Kaldi: a folder with wav.scp and, optionally, text, segments and utt2spk; each line begins with an id.

wav.scp     recording path              text        utterance words...
segments    utterance recording start end (seconds; an end of -1 is the recording's)
utt2spk     utterance speaker

A wav.scp may contain commands whose output is the sound. They are never run. Relative paths are seen
from the folder of the wav.scp or, as Kaldi's own tools do, from the working directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from . import _entries
from ._entries import Entry, Row, Utterance

TITLE = "a Kaldi folder (wav.scp, text)"
RANK = 0
ARCHIVE = re.compile(r"\.ark(:\d+)?$")
Table = dict[str, Row[str]]  # id -> (place, the rest of its line)


def detect(path: Path) -> bool:
    return (_folder(path) / "wav.scp").is_file()


def read(path: Path) -> Iterator[Entry]:
    folder = _folder(path)
    problems: list[InputError] = []
    files = ("wav.scp", "text", "segments", "utt2spk")
    scp, text, segments, speakers = (_table(folder / name, problems) for name in files)
    listed = segments if (folder / "segments").is_file() else scp
    yield from problems
    yield from _without_recording(text, listed)

    def entry(place: str, name: str) -> Utterance:
        recording, offset, duration = _segment(*segments[name]) if name in segments else (name, 0.0, None)
        if recording not in scp:
            raise InputError(f"{place}: {recording} is not in wav.scp; add it or remove the segment")
        words, speaker = (table[name][1] if name in table else None for table in (text, speakers))
        return Utterance(name, _path(folder, *scp[recording]), words, speaker, offset, duration, place)

    yield from _entries.parsed(((place, name) for name, (place, _) in listed.items()), entry)


def _without_recording(text: Table, listed: Table) -> Iterator[InputError]:
    """Problems for transcripts without a recording: word errors would be counted over less than the data says."""
    for name, (place, _) in text.items():
        if name not in listed:
            yield InputError(f"{place}: {name} has no recording; add it to wav.scp or segments, or remove the line")


def _folder(path: Path) -> Path:
    return path.parent if path.name == "wav.scp" else path


def _table(path: Path, problems: list[InputError]) -> Table:
    """Empty where there is no such file: only wav.scp has to be there."""
    table: Table = {}
    for place, line in _entries.lines(path) if path.is_file() else ():
        name, *rest = line.split(maxsplit=1)
        if name in table:
            problems.append(InputError(f"{place}: {name} appears twice; remove one of the lines"))
        table.setdefault(name, (place, rest[0].strip() if rest else ""))
    return table


def _path(folder: Path, place: str, name: str) -> Path:
    if name.endswith("|") or name.startswith("|"):
        raise InputError(
            f"{place}: a command, which is never run; write its output to a file and use the path of that"
        )
    if not name:
        raise InputError(f"{place}: no path after the id; add the path of the recording")
    if ARCHIVE.search(name):
        raise InputError(
            f"{place}: {name} is in a Kaldi archive (.ark), which is not supported; use a wav.scp with a WAV or FLAC "
            "file for each recording"
        )
    return _entries.beside_or_here(_entries.located(folder, name, place), name)


def _segment(place: str, line: str) -> tuple[str, float, float | None]:
    """(recording, offset, duration); the duration is None where the segment ends with the recording."""
    cells = line.split()
    if len(cells) != 3:
        raise InputError(f"{place}: not a segment; write its id, the id of the recording, start and end in seconds")
    recording, start, end = cells
    offset = _entries.seconds_in_cell(start, "start", place)
    if end in {"-1", "-1.0"}:
        return recording, offset, None
    duration = _entries.seconds_in_cell(end, "end", place) - offset
    if duration <= 0:
        raise InputError(f"{place}: ends at {end} s and starts at {start} s; correct the times")
    return recording, offset, duration
