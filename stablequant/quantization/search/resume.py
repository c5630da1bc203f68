"""The partial results of a calibration, on disk next to its output, so that `--resume` can continue from them.

A calibration is a fixed sequence of small results (the tokens that the float model writes, statistics after each
recording, parts of scores), each of which depends only on the inputs. They are stored as they come; a resumed run
reads instead of computing, and so ends with the same plan. A fingerprint ties them to their inputs. They are removed
when the model has been written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...foundation import files
from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from ..observation.histogram import Histogram

Parts = Mapping[str, Sequence[float]]  # by trial, its numerator and denominator on one recording

FILES = ("fingerprint.json", "scores.jsonl", "stats.npz", "tokens.jsonl")
AGAIN = "leave out --resume to start the calibration again"


def fingerprint_hash(fingerprint: JsonObject) -> str:
    """sha256 (hex) of a fingerprint, stored in the finished model to identify its inputs."""
    return hashlib.sha256(_content(fingerprint)).hexdigest()


def _content(fingerprint: JsonObject) -> bytes:
    return json.dumps(fingerprint, sort_keys=True).encode()


class Lines:
    """A file of JSON lines {"key": key, field: value}, which grows; the last one may have been cut off."""

    def __init__(self, path: Path, field: str) -> None:
        self._path, self._field = path, field
        self._values: dict[str, Any] = {}

    def read(self) -> None:
        """What is there, and nothing behind the line that was being written when a run stopped."""
        rows = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        try:
            self._values = {row["key"]: row[self._field] for row in rows}
        except (TypeError, KeyError) as error:
            raise InputError(f"{self._path}: damaged; {AGAIN}") from error
        files.write(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def get(self, key: str) -> Any:
        """The value of a key; None if there is none."""
        return self._values.get(key)

    def add(self, key: str, value: Any) -> None:
        """Store a value, at once."""
        self._values[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, self._field: value}) + "\n")


class ResumeState:
    """A folder with the fingerprint of the inputs, the tokens, the statistics and the parts of scores."""

    def __init__(self, folder: Path, fingerprint: JsonObject, resume: bool) -> None:
        self.folder = folder
        self._scores = Lines(folder / "scores.jsonl", "parts")
        self._tokens = Lines(folder / "tokens.jsonl", "tokens")
        self._stats_file = folder / "stats.npz"
        _check_ours(folder)
        if resume and not folder.exists():
            print(f"{folder}: nothing to resume; starting from the beginning", file=sys.stderr)
        if not resume and (folder / "fingerprint.json").is_file():
            print(
                f"{folder}: discarding the partial results of an earlier run; use --resume to continue it instead",
                file=sys.stderr,
            )
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        self._open(fingerprint)
        self._scores.read()
        self._tokens.read()

    def _open(self, fingerprint: JsonObject) -> None:
        path = self.folder / "fingerprint.json"
        if not path.is_file():  # it is not known whose results these are, or a run was killed during cleanup
            shutil.rmtree(self.folder, ignore_errors=True)
        content = _content(fingerprint)
        if path.is_file() and path.read_bytes() != content:
            raise InputError(
                f"{self.folder}: this calibration was started with another model, other recordings or other options; "
                "use the same ones, or leave out --resume to start again"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.replaced(path) as partial:
            partial.write_bytes(content)

    def scores(self, key: str) -> Parts | None:
        """The parts of scores stored under a key; None if that work is still to be done."""
        found: Parts | None = self._scores.get(key)
        return found

    def add_scores(self, key: str, parts: Parts) -> None:
        self._scores.add(key, parts)

    def tokens(self, key: str) -> tuple[list[int], int] | None:
        """The tokens that the float model writes for a recording, and how many are the prompt; None if not known."""
        if (found := self._tokens.get(key)) is None:
            return None
        try:
            [*ids], prompt = found
            return [int(each) for each in ids], int(prompt)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.folder / 'tokens.jsonl'}: damaged; {AGAIN}") from error

    def add_tokens(self, key: str, ids: list[int], prompt: int) -> None:
        self._tokens.add(key, [ids, prompt])

    def stats(self) -> tuple[int, dict[str, Histogram]]:
        """How many recordings the statistics hold, and the statistics."""
        if not self._stats_file.is_file():
            return 0, {}
        try:
            with self._stats_file.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return int(arrays["recordings"]), _histograms(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{self._stats_file}: damaged ({error}); {AGAIN}") from error

    def save_stats(self, recordings: int, stats: dict[str, Histogram]) -> None:
        found = list(stats.values())
        with files.replaced(self._stats_file) as partial:
            np.savez(
                partial,
                recordings=recordings,
                names=np.array(list(stats)),
                counts=np.stack([h.counts for h in found]),
                exponents=[h.exponent for h in found],
                minima=[h.minimum for h in found],
                maxima=[h.maximum for h in found],
            )

    def remove(self) -> None:
        """Remove it after the model was written; failing that is only a warning, because the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            warnings.warn(f"{self.folder}: no longer needed, but cannot be removed; delete it", stacklevel=1)


def _check_ours(folder: Path) -> None:
    """InputError unless the folder is new or of an earlier run: it is emptied and removed later."""
    links = folder.is_symlink() or (folder.is_dir() and any(path.is_symlink() for path in folder.iterdir()))
    names = {files.final_name(path.name) for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and (links or not folder.is_dir() or not names <= {*FILES}):
        raise InputError(f"{folder}: needed for partial results, but it contains something else; move that away")


def _histograms(arrays: Mapping[str, np.ndarray]) -> dict[str, Histogram]:
    columns = (arrays[key] for key in ("names", "counts", "exponents", "minima", "maxima"))
    return {
        str(name): Histogram(counts, int(exponent), float(low), float(high))
        for name, counts, exponent, low, high in zip(*columns, strict=True)
    }
