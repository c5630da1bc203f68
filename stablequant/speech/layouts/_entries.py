"""Shared by the layouts: the utterance, lines and tables with their line numbers, and checked values."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from ..audio_files import kinds

SUFFIXES = frozenset(
    {
        *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga"),
        *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc"),
    }
)
FOREVER = 1e9  # seconds, thirty years: a time beyond it is a mistake
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
SHOWN = 6  # fields of a row that a message names
HEAD = 1 << 16  # bytes: no header is longer, and a line of a file that is no list may be all of it
TEXTS = ("transcription", "text", "sentence", "transcript")
SPEAKERS = ("speaker", "speaker_id", "spk_id", "client_id")


@dataclass(frozen=True)
class Utterance:
    """One recording, or a segment of one, and what is said in it."""

    id: str  # unique in its data and the same wherever the data lies
    path: Path
    text: str | None  # None: unknown; "": nothing is said
    speaker: str | None
    offset: float  # seconds from the start of the file
    duration: float | None  # seconds; None: to the end
    source: str  # where it was listed, "manifest.jsonl:3", for messages
    content: Callable[[], bytes] | None = field(default=None, compare=False)  # the file, where it lies in a data set


T = TypeVar("T")
Entry = Utterance | InputError
Row = tuple[str, T]  # ("FILE:NUMBER", what stands there)


def text_of(path: Path) -> str:
    """A file of UTF-8, with or without a byte order mark, or of UTF-16 with one."""
    return decoded(path.read_bytes(), str(path))


def decoded(content: bytes, name: str) -> str:
    encoding = "utf-16" if content[:2] in UTF_16 else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8, as with `iconv -f latin1 -t utf-8`"
        ) from error
    if "\0" in text:
        raise InputError(
            f"{name}: contains a zero byte, so it is damaged, or UTF-16 without a byte order mark; save it as UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered(text: str, name: str) -> Iterator[Row[str]]:
    """("NAME:NUMBER", line) for each line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{name}:{number}", line.strip(" \r")


def lines(path: Path) -> Iterator[Row[str]]:
    return numbered(text_of(path), str(path))


def parsed(rows: Iterable[Row[T] | InputError], parse: Callable[[str, T], Utterance]) -> Iterator[Entry]:
    """`parse(place, row)` of every row, or why it cannot be read."""
    for row in rows:
        try:
            yield row if isinstance(row, InputError) else parse(*row)
        except InputError as error:
            yield error


def head(path: Path, count: int = 1) -> list[str]:
    """The first `count` lines of a file; none where there is no file. Whatever the bytes, this does not fail."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        start = file.read(HEAD)
    text = start.decode("utf-16" if start[:2] in UTF_16 else "utf-8-sig", "replace")
    found = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:count]
    return found + [""] * (count - len(found))


def columns(path: Path, delimiter: str) -> list[str]:
    """The cells of the first line."""
    return [cell.strip().strip('"') for line in head(path) for cell in line.split(delimiter)]


def find_lists(path: Path, patterns: Iterable[str], fits: Callable[[Path], bool]) -> list[Path]:
    """The file itself, or the files in the folder, that fit."""
    found = [each for pattern in patterns for each in path.glob(pattern)] if path.is_dir() else [path]
    return sorted(each for each in found if each.is_file() and fits(each))


def the_list(path: Path, patterns: Iterable[str], fits: Callable[[Path], bool]) -> Path:
    """The only list: several are splits, which must not be mixed."""
    found = find_lists(path, patterns, fits)
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(path)) for each in found)
        raise InputError(f"{path}: contains {len(found)} lists ({names}); pass one of them")
    return found[0]


def tsv(path: Path) -> Iterator[Row[list[str]]]:
    """The cells of each line. Quotes have no meaning here: transcripts are full of them."""
    for place, line in lines(path):
        yield place, line.split("\t")


def csv_rows(path: Path) -> Iterator[Row[list[str]] | InputError]:
    """The cells of each record that is not blank; the place is the line on which it begins."""
    reader = csv.reader(io.StringIO(text_of(path), newline=""), skipinitialspace=True, strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield InputError(
                f"{place}: not CSV ({error}); quote cells that contain commas or quotes, and double the quotes in them"
            )
            continue
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield place, row


def records(rows: Iterable[Row[list[str]] | InputError]) -> Iterator[Row[dict[str, str]] | InputError]:
    """Each row as {column: cell}, with the columns that the first row names."""
    header: list[str] | None = None
    for row in rows:
        if isinstance(row, InputError):
            yield row
        elif header is None:
            header = [cell.strip() for cell in row[1]]
        elif len(row[1]) != len(header):
            place, cells = row
            yield InputError(
                f"{place}: has {len(cells)} cells, but the header has {len(header)}; write one for each column"
            )
        else:
            yield row[0], dict(zip(header, row[1], strict=True))


def is_missing(value: object) -> bool:
    """Whether a row has no value here: null, or NaN, which pandas writes for an empty cell."""
    return value is None or value != value


def json_object(place: str, line: str) -> JsonObject:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({error}); each line of a manifest is one JSON object") from error
    if not isinstance(entry, dict):
        raise InputError(
            f"{place}: not a JSON object; write one per line, with the path and text of a recording, without a list "
            "around them"
        )
    return entry


def name_in(row: JsonObject, key: str, place: str) -> str:
    """The path of the recording, which has to be there."""
    name: object = row.get(key)
    if isinstance(name, list):
        raise InputError(f"{place}: {key} is a list, but recordings are not joined; write one entry for each")
    if not is_missing(name) and not isinstance(name, str):
        raise InputError(f"{place}: {key} is {json.dumps(name)}, not a path; put it in quotes")
    if not isinstance(name, str) or not name.strip():
        others = ", ".join(list(row)[:SHOWN]) if key not in row else ""
        raise InputError(f"{place}: no {key}{others and f', only {others}'}; add the path of the recording")
    if "\0" in name:
        raise InputError(f"{place}: {key} contains a zero byte, which no path can; correct it")
    return name


def text_in(row: JsonObject, keys: Iterable[str], place: str) -> str | None:
    """The first of these columns that is there."""
    key = next((each for each in keys if not is_missing(row.get(each))), None)
    if key is None:
        return None
    if isinstance(row[key], list):
        raise InputError(f"{place}: {key} is a list; write the words as one string")
    if not isinstance(row[key], str):
        raise InputError(f"{place}: {key} is {json.dumps(row[key])}, not a string; put it in quotes")
    text: str = row[key]
    if "\0" in text:
        raise InputError(f"{place}: {key} contains a zero byte; remove it")
    return text


def speaker_in(row: JsonObject) -> str | None:
    return next((str(row[key]) for key in SPEAKERS if not is_missing(row.get(key)) and row[key] != ""), None)


def seconds(value: object, name: str, place: str) -> float:
    """A time; 0 where there is none."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < FOREVER:
        raise InputError(f"{place}: {name} is {json.dumps(value)}; write seconds, 0 or more")
    return float(value)


def seconds_in_cell(cell: str, name: str, place: str) -> float:
    """A time as a table has it."""
    value: float | str | None
    try:
        value = float(cell) if cell.strip() else None
    except ValueError:
        value = cell
    return seconds(value, name, place)


def located(folder: Path, name: str, place: str) -> Path:
    """The path of a recording in a list in this folder; `~` and file:// are understood, other URLs are not."""
    scheme = name.partition("://")[0].lower() if "://" in name else ""
    if scheme == "file":
        return Path(unquote(urlsplit(name).path))
    if scheme.isalnum():
        raise InputError(f"{place}: {name} is a URL, but nothing is downloaded here; download it and use its path")
    return folder / (Path(name).expanduser() if name.startswith("~/") else name)


def beside_or_here(path: Path, name: str) -> Path:
    """A path from the folder of a list or, where nothing lies there, from the working directory, if something does."""
    here = Path(name)
    return here if exists(here) and not exists(path) else path


def exists(path: Path) -> bool:
    """Whether there is something; under a name that is too long there is not."""
    try:
        return path.exists()
    except OSError:
        return False


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder at any depth; links to folders are followed, each folder once."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(root, name) for name in names)


def is_audio(path: Path) -> bool:
    """Whether it is a recording, by its suffix or, if the suffix is of an unsupported format, by its content."""
    if path.name.startswith(".") or not path.is_file():
        return False
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in kinds.UNREAD and kinds.readable(_start(path)))


def is_unread(path: Path) -> bool:
    """Whether it is a recording in an unsupported format."""
    known = path.suffix.lower() in kinds.UNREAD and not path.name.startswith(".")
    return known and path.is_file() and not kinds.readable(_start(path))


def unread(folder: Path, paths: Iterable[Path]) -> str | None:
    """A sentence about recordings in unsupported formats, if there are any."""
    found = sorted(paths)
    if not found:
        return None
    suffixes = Counter(each.suffix.lower() for each in found)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    recordings = "1 recording is" if len(found) == 1 else f"{len(found)} recordings are"
    advice = f"convert them, for example with {kinds.convert(str(found[0]))}"
    return f"{folder}: {recordings} in an unsupported format ({counts}); {advice}"


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""
