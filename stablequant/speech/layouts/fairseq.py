"""fairseq: a .tsv whose first line is the root, then a path and a number of samples on each line.

Words are on the same line of a .wrd of the same stem, or letters with | between words on that of a .ltr.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...foundation.errors import InputError
from . import _entries
from ._entries import Entry, Row, Utterance

TITLE = "a fairseq manifest (.tsv with the root on its first line, and .wrd or .ltr)"
RANK = 0


def detect(path: Path) -> bool:
    return bool(_entries.find_lists(path, ["*.tsv"], is_manifest))


def is_manifest(path: Path) -> bool:
    """A first line without a tab, and then a path and a number, or labels beside it."""
    if path.suffix != ".tsv":
        return False
    root, first = _entries.head(path, 2) or ("", "")
    labelled = any(path.with_suffix(suffix).is_file() for suffix in (".wrd", ".ltr"))
    return bool(root.strip()) and "\t" not in root and (labelled or first.rpartition("\t")[2].strip().isdecimal())


def read(path: Path) -> Iterator[Entry]:
    manifest = _entries.the_list(path, ["*.tsv"], is_manifest)
    root, *rows = _every_line(manifest)
    texts = _texts(manifest, len(rows))
    folder = _entries.beside_or_here(manifest.parent / root.strip(), root.strip())  # fairseq takes the latter
    numbered: Iterator[Row[tuple[str, str | None]]] = (
        (f"{manifest}:{number}", each) for number, each in enumerate(zip(rows, texts, strict=True), start=2)
    )
    return _entries.parsed(numbered, lambda place, row: _entry(folder, place, *row))


def _entry(folder: Path, place: str, line: str, text: str | None) -> Utterance:
    name, _, samples = line.partition("\t")
    if not name or not samples.strip().isdecimal():
        raise InputError(f"{place}: not a path, a tab and a number of samples; correct or remove it and its label")
    return Utterance(name, _entries.located(folder, name, place), text, None, offset=0.0, duration=None, source=place)


def _texts(manifest: Path, count: int) -> list[str | None]:
    """The words of each recording: lines belong together by their number, so there must be as many."""
    labels = next((path for end in (".wrd", ".ltr") if (path := manifest.with_suffix(end)).is_file()), None)
    if labels is None:
        return [None] * count
    found = _every_line(labels)
    if len(found) != count:
        raise InputError(f"{labels}: has {len(found)} lines for {count} recordings in {manifest}; make them agree")
    return [_words(line) if labels.suffix == ".ltr" else line.strip() for line in found]


def _words(letters: str) -> str:
    return " ".join(letters.replace(" ", "").replace("|", " ").split())


def _every_line(path: Path) -> list[str]:
    """Blank ones too, but for the end of the file: an empty line is an empty transcript."""
    text = _entries.text_of(path)
    return text.removesuffix("\n").split("\n") if text else []
