"""Why some data fits no layout, where a look at it tells: what it is instead, and what helps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .layouts import _entries

ARCHIVES = (b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!")
TAR = slice(257, 262)  # where a tar file says "ustar"
TABLES = frozenset({".csv", ".tsv", ".tab", ".txt", ".lst", ".list", ".psv"})
TELLING = TABLES | {".parquet", ".tar", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", ",": "commas"}
SHOWN = 6  # columns that are named
LONGEST = 30  # characters of a name


def sentence(path: Path) -> str | None:
    """What a file of no known layout is, or the first file of a folder that tells; None where nothing tells."""
    if not path.is_dir():
        return _of_file(path)
    files = sorted(each for each in _entries.files_below(path) if each.suffix.lower() in TELLING and each.is_file())
    return next(filter(None, map(_of_file, files)), None)


def _of_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(TAR.stop)
    if start.startswith(b"PAR1"):
        return (
            f"{path}: a Parquet table, which is not read; load it with the package `datasets`, save it with "
            "`save_to_disk`, and pass that folder"
        )
    if start.startswith(ARCHIVES) or start[TAR] == b"ustar":
        return f"{path}: an archive, which is not read; unpack it and pass its folder"
    return _of_table(path) if path.suffix.lower() in TABLES else None


def _of_table(path: Path) -> str | None:
    (line,) = _entries.head(path)
    if Path(line.strip()).suffix.lower() in _entries.SUFFIXES:
        return (
            f"{path}: a list of recordings without transcripts; pass the folder that holds them, or write a .tsv with "
            "a path, a tab and the text on each line"
        )
    delimiter = max(DELIMITERS, key=line.count)
    if delimiter not in line:
        return None
    names = _named(cell.strip().strip('"') for cell in line.split(delimiter))
    if delimiter == "\t":
        return (
            f"{path}: a table with the columns {names}; name the one with the paths path and the one with the "
            "transcripts sentence"
        )
    return (
        f"{path}: a table with {DELIMITERS[delimiter]} between the columns {names}; save it as CSV with commas, and "
        "name the column with the paths file_name and the one with the transcripts text"
    )


def _named(names: Iterable[str]) -> str:
    shown = [name[:LONGEST] or "(no name)" for name in names]
    return ", ".join(shown[:SHOWN]) + (", ..." if len(shown) > SHOWN else "")
