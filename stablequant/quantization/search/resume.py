"""The partial results of a calibration, on disk next to its output, so that `--resume` can continue from them.

A calibration is a fixed sequence of small results (statistics after each recording, parts of scores), each of which
depends only on the inputs. They are stored as they come; a resumed run reads instead of computing, and so ends with
the same plan. A fingerprint ties them to their inputs. They are removed when the model has been written.
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

import numpy as np

from ...foundation import files
from ...foundation.errors import InputError
from ...foundation.reading import JsonObject
from ..observation.histogram import Histogram

Parts = Mapping[str, Sequence[float]]  # by trial, its numerator and denominator on one recording

FILES = ("fingerprint.json", "scores.jsonl", "stats.npz")
AGAIN = "leave out --resume to start the calibration again"


def fingerprint_hash(fingerprint: JsonObject) -> str:
    """sha256 (hex) of a fingerprint, stored in the finished model to identify its inputs."""
    return hashlib.sha256(_content(fingerprint)).hexdigest()


def _content(fingerprint: JsonObject) -> bytes:
    return json.dumps(fingerprint, sort_keys=True).encode()


class ResumeState:
    """A folder with the fingerprint of the inputs, the statistics and the parts of scores."""

    def __init__(self, folder: Path, fingerprint: JsonObject, resume: bool) -> None:
        self.folder = folder
        self._scores_file = folder / "scores.jsonl"
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
        self._scores = self._read_scores()

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

    def _read_scores(self) -> dict[str, Parts]:
        lines = self._scores_file.read_text(encoding="utf-8").splitlines() if self._scores_file.is_file() else []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the line that was being written when the run stopped
                break
        try:
            scores = {row["key"]: row["parts"] for row in rows}
        except (TypeError, KeyError) as error:
            raise InputError(f"{self._scores_file}: damaged; {AGAIN}") from error
        files.write(self._scores_file, "".join(json.dumps(row) + "\n" for row in rows))
        return scores

    def scores(self, key: str) -> Parts | None:
        """The parts of scores stored under a key; None if that work is still to be done."""
        return self._scores.get(key)

    def add_scores(self, key: str, parts: Parts) -> None:
        self._scores[key] = parts
        with self._scores_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "parts": parts}) + "\n")

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
