"""SpeechBrain: CSV with ID, wav, and optionally duration, spk_id and the words in wrd.

The duration is not used to cut, as SpeechBrain only sorts by it; a segment (start, stop, in samples) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from . import _entries
from ._entries import Entry, Utterance

TITLE = "a SpeechBrain CSV (ID, duration, wav, wrd)"
RANK = 0
TEXTS = ("wrd", "words", *_entries.TEXTS)


def detect(path: Path) -> bool:
    return bool(_entries.find_lists(path, ["*.csv"], is_table))


def is_table(path: Path) -> bool:
    return path.suffix == ".csv" and {"ID", "wav"} <= set(_entries.columns(path, ","))


def read(path: Path) -> Iterator[Entry]:
    table = _entries.the_list(path, ["*.csv"], is_table)
    rows = _entries.records(_entries.csv_rows(table))
    return _entries.parsed(rows, lambda place, row: _entry(table.parent, place, row))


def _entry(folder: Path, place: str, row: dict[str, str]) -> Utterance:
    name, text = _entries.name_in(row, "wav", place), _entries.text_in(row, TEXTS, place)
    _entries.seconds_in_cell(row.get("duration", ""), "duration", place)
    if "$" in name:
        raise InputError(
            f"{place}: the path {name} contains a variable, whose value is not known here; write the full path"
        )
    if row.get("start") or row.get("stop") or "start" in row.get("wav_opts", ""):
        raise InputError(f"{place}: a segment in samples, which is not supported; cut the file or use a NeMo manifest")
    return Utterance(
        row["ID"],
        _entries.located(folder, name, place),
        text,
        _entries.speaker_in(row),
        offset=0.0,
        duration=None,
        source=place,
    )
