"""A data set that `datasets` saved to disk: the recordings are inside its Arrow files, and are read when needed.

The package is optional (the extra `datasets`), because it requires pyarrow and pandas and only this layout needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from . import _entries
from ._entries import Entry, Utterance

TITLE = "a data set saved to disk with `datasets` (dataset_info.json, state.json)"
RANK = 0


def detect(path: Path) -> bool:
    return _is_split(path) or (path / "dataset_dict.json").is_file()


def read(path: Path) -> Iterator[Entry]:
    datasets = _package(path)
    folder = _split(path)
    try:
        rows = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever pyarrow and fsspec raise: the data cannot be used, and that is all we know
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{folder}: `datasets` cannot read it ({reason}); save it to disk again") from error
    column = _audio_column(folder, rows, datasets)
    # Undecoded, or the package would want torchcodec and hold all samples
    rows = rows.cast_column(column, datasets.Audio(decode=False))
    # Transcripts are gone through without the bytes of the recordings
    others = enumerate(rows.remove_columns([column]))
    numbered = ((f"{folder} row {number}", (number, row)) for number, row in others)
    return _entries.parsed(numbered, lambda place, row: _entry(rows, column, folder, place, *row))


def _package(path: Path) -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"{path}: saved by the package `datasets`, which is not installed; "
            "run pip install 'stablequant[datasets]', or save it as an audiofolder"
        ) from error


def _is_split(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() and (path / "state.json").is_file()


def _split(path: Path) -> Path:
    if _is_split(path):
        return path
    splits = sorted(each for each in path.iterdir() if _is_split(each))
    if len(splits) != 1:
        names = ", ".join(str(each) for each in splits) or "none"
        raise InputError(f"{path}: contains {len(splits)} splits ({names}); pass the folder of one")
    return splits[0]


def _audio_column(folder: Path, rows: Any, datasets: ModuleType) -> str:
    found = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Audio)]
    if len(found) != 1:
        names = ", ".join(rows.features)
        raise InputError(f"{folder}: {len(found)} of its columns ({names}) are of type Audio; keep exactly one")
    return str(found[0])


def _entry(rows: Any, column: str, folder: Path, place: str, number: int, row: JsonObject) -> Utterance:
    def content() -> bytes:
        return _bytes(rows[number][column], folder, place)

    text, speaker = _entries.text_in(row, _entries.TEXTS, place), _entries.speaker_in(row)
    return Utterance(str(number), folder / str(number), text, speaker, 0.0, None, place, content)


def _bytes(sound: JsonObject | None, folder: Path, place: str) -> bytes:
    """What is inside or, where it was saved without, the file that is named."""
    if sound and sound.get("bytes") is not None:
        return bytes(sound["bytes"])
    path = folder / sound["path"] if sound and sound.get("path") else None
    if path is None or not path.is_file():
        raise InputError(f"{place}: contains no recording{f' and there is no {path}' if path else ''}; save it again")
    return path.read_bytes()
