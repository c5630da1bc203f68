"""NeMo: JSON lines with audio_filepath, text, and optionally offset and duration (seconds) and speaker.

Lines that `datasets` wrote are read as well: the path is then in audio, audio.path or path, and the text in sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from . import _entries, audiofolder
from ._entries import Entry, Utterance

TITLE = "a NeMo manifest (.jsonl with audio_filepath, or a folder with manifest.jsonl)"
RANK = 0
PATHS = ("audio_filepath", "audio", "path")


def detect(path: Path) -> bool:
    """Any file of JSON lines that is not an audiofolder's: problems in it are then reported by line."""
    manifest = _manifest(path)
    return manifest.suffix in {".jsonl", ".json"} and manifest.is_file() and not audiofolder.is_metadata(manifest)


def read(path: Path) -> Iterator[Entry]:
    manifest = _manifest(path)
    others = sorted(each.name for each in manifest.parent.glob("*.jsonl") if each != manifest) if path.is_dir() else []
    if others:
        names = ", ".join(others)
        print(f"{path}: reading {manifest.name}, not {names}; to read another, pass the file itself", file=sys.stderr)
    return _entries.parsed(_entries.lines(manifest), lambda place, line: entry(manifest.parent, place, line))


def entry(folder: Path, place: str, line: str) -> Utterance:
    """The utterance on one line; InputError says what is wrong with it."""
    row = _entries.json_object(place, line)
    name, text = _name(row, place), _entries.text_in(row, ("text", *_entries.TEXTS), place)
    offset, duration = (_entries.seconds(row.get(key), key, place) for key in ("offset", "duration"))
    path = _entries.located(folder, name, place)
    if "shard_id" in row and not path.is_file():
        raise InputError(
            f"{place}: {name} is in a tar file (a tarred data set); unpack the tar files next to the list"
        )
    return Utterance(
        id=f"{name}@{offset:g}" if offset else name,
        path=path,
        text=text,
        speaker=_entries.speaker_in(row),
        offset=offset,
        duration=duration or None,  # NeMo writes 0 for a duration it does not know
        source=place,
    )


def _name(row: JsonObject, place: str) -> str:
    """The path of the recording, under the first name that there is."""
    key = next((each for each in PATHS if not _entries.is_missing(row.get(each))), PATHS[0])
    if not isinstance(row.get(key), dict):
        return _entries.name_in(row, key, place)
    if _entries.is_missing(row[key].get("path")):
        raise InputError(f"{place}: {key} has no path; write each recording to a file, and its path here")
    return _entries.name_in({key: row[key]["path"]}, key, place)


def _manifest(path: Path) -> Path:
    return path / "manifest.jsonl" if path.is_dir() else path
