"""Recordings and their transcripts: find them in any known layout, read one as a mono waveform.

A layout is one function `Path -> list[Utterance] | None` in LAYOUTS; it answers None when the data is not its own,
and the first that answers wins. What follows (are transcripts and recordings there, the subset) is the same for all.
What a waveform may be, decided once for calibration and evaluation:

- empty, silent or clipped: kept. A word error rate that leaves out the hard recordings is not one. A waveform may be
  shorter than a model can take; the caller compares its length with `Recognizer.min_samples`.
- NaN or infinite samples: refused, they are not sound.
- any length: it is read whole, so memory is the only limit (64 kB a second at 16 kHz).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import resample_poly

from .errors import InputError

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
)
ROUNDING = 0.1  # seconds: manifests round durations; a segment that ends this near to the file's end ends with it
FOREVER = 1e9  # seconds, thirty years: a time beyond it is a mistake
MISSING = 1.0  # seconds: a recording this much shorter than it says was cut off, and its transcript is not of it


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


def read_utterances(
    data: str | Path, *, require_text: bool, max_samples: int | None = None, seed: int = 0
) -> list[Utterance]:
    """The utterances of `data`, whose layout is detected, in its order; `max_samples` keeps a seeded subset.

    Raises InputError with the first problem and the number of others: no layout fits, a line cannot be read, a
    recording is missing, or, with `require_text`, a transcript is.
    """
    path = Path(data)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a manifest or a folder of recordings as the data")
    utterances = next((found for layout in LAYOUTS if (found := layout(path)) is not None), None)
    if utterances is None:
        raise InputError(
            f"{path}: not data in a known layout; give a NeMo manifest (.jsonl) or the folder of one, a LibriSpeech "
            "folder (speaker/chapter/*.trans.txt), or a folder of recordings with a .txt of the same name beside each"
        )
    if not utterances:
        raise InputError(f"{path}: lists no utterances; give a manifest with one on each line")
    _raise_first([problem for each in utterances if (problem := _problem(each, require_text))])
    return utterances if max_samples is None else _subset(utterances, max_samples, seed)


def recording(path: str | Path) -> Utterance:
    """A whole file of which nothing is known but its path."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; give recordings, as in {Path(path) / '*.wav'}")
    if not Path(path).exists():
        raise InputError(f"{path}: no such recording; correct the path")
    return Utterance(str(path), Path(path), None, None, offset=0.0, duration=None, source=str(path))


def load(utterance: Utterance, sampling_rate: int) -> np.ndarray:
    """The utterance as float32 mono (samples,) at `sampling_rate` Hz: channels averaged, then resampled (polyphase).

    Raises InputError when the file is missing, empty, corrupt or cut off, when the offset lies past its end, and when
    samples are not finite.
    """
    path = utterance.path
    if not path.is_file():
        raise InputError(f"{utterance.source}: no recording {path}; correct the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        with soundfile.SoundFile(path) as file:
            samples, rate = _read(file, utterance), file.samplerate
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        raise InputError(f"{path}: cannot be decoded ({reason}); convert it to WAV or FLAC, or remove it") from error
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: has samples that are NaN or infinite; repair or remove the recording")
    return _resample(samples.mean(axis=1), rate, sampling_rate)


def content_hash(waveform: np.ndarray) -> str:
    """SHA-256 (hex) of a waveform (samples,) as little-endian float32: the same for a copied or renamed recording."""
    return hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()


def _read(file: soundfile.SoundFile, utterance: Utterance) -> np.ndarray:
    """The utterance's samples (frames, channels), float32, at the file's own rate."""
    start = round(utterance.offset * file.samplerate)
    if start and start >= file.frames:
        raise InputError(
            f"{utterance.source}: offset {utterance.offset:g} s lies past the end of {utterance.path} "
            f"({file.frames / file.samplerate:.3f} s); correct the offset"
        )
    stop = file.frames
    if utterance.duration is not None:
        end = start + round(utterance.duration * file.samplerate)
        stop = file.frames if abs(end - file.frames) <= ROUNDING * file.samplerate else end
    file.seek(start)
    samples: np.ndarray = file.read(stop - start, dtype="float32", always_2d=True)
    if stop - start - len(samples) > MISSING * file.samplerate:
        raise InputError(
            f"{utterance.source}: {utterance.path} holds {len(samples) / file.samplerate:.3f} s of the "
            f"{(stop - start) / file.samplerate:.3f} s it should; copy it again or correct the duration"
        )
    return samples


def _resample(waveform: np.ndarray, rate: int, target: int) -> np.ndarray:
    if rate == target or not len(waveform):
        return waveform
    common = math.gcd(rate, target)
    resampled: np.ndarray = resample_poly(waveform, target // common, rate // common)
    return resampled.astype(np.float32, copy=False)


def _subset(utterances: list[Utterance], count: int, seed: int) -> list[Utterance]:
    """`count` utterances in their order; ranked by a hash, so the choice does not depend on the order of the list."""
    ranked = sorted(utterances, key=lambda each: hashlib.sha256(os.fsencode(f"{seed} {each.id}")).digest())
    chosen = {id(each) for each in ranked[:count]}
    return [each for each in utterances if id(each) in chosen]


def _problem(utterance: Utterance, require_text: bool) -> str | None:
    if not utterance.path.is_file():
        return f"{utterance.source}: no recording {utterance.path}; correct the path or remove the entry"
    if require_text and utterance.text is None:
        return f"{utterance.source}: no transcript, and word errors are counted against one; add the text"
    return None


def _raise_first(problems: list[str]) -> None:
    if problems:
        others = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise InputError(problems[0] + others)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """("FILE:NUMBER", line) for each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _each_line(path: Path, parse: Callable[[str, str], Utterance]) -> list[Utterance]:
    """`parse(place, line)` of every line; all lines are read before the first bad one is reported."""
    utterances, problems = [], []
    for place, line in _lines(path):
        try:
            utterances.append(parse(place, line))
        except InputError as error:
            problems.append(str(error))
    _raise_first(problems)
    return utterances


def _nemo_manifest(data: Path) -> list[Utterance] | None:
    """JSONL, or a folder with manifest.jsonl: audio_filepath (relative to it), text, offset, duration, speaker."""
    manifest = data / "manifest.jsonl" if data.is_dir() else data
    if not manifest.is_file() or manifest.suffix not in {".jsonl", ".json"}:
        return None
    return _each_line(manifest, lambda place, line: _manifest_entry(manifest.parent, place, line))


def _manifest_entry(folder: Path, place: str, line: str) -> Utterance:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: not JSON ({error}); each line of a manifest is one JSON object") from error
    if not isinstance(entry, dict):
        raise InputError(f'{place}: not a JSON object; write {{"audio_filepath": ..., "text": ...}}')
    name, text, speaker = entry.get("audio_filepath"), entry.get("text"), entry.get("speaker")
    if not isinstance(name, str) or not name:
        raise InputError(f"{place}: no audio_filepath; add the path of the recording")
    if not isinstance(text, str | None):
        raise InputError(f"{place}: text is {json.dumps(text)}, not a string; put it in quotes")
    offset, duration = _seconds(entry, "offset", place), _seconds(entry, "duration", place)
    return Utterance(
        id=f"{name}@{offset:g}" if offset else name,
        path=folder / name,
        text=text,
        speaker=None if speaker is None else str(speaker),
        offset=offset,
        duration=duration or None,  # NeMo writes 0 for a duration it does not know
        source=place,
    )


def _seconds(entry: dict[str, Any], key: str, place: str) -> float:
    value = entry.get(key)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < FOREVER:
        raise InputError(f"{place}: {key} is {json.dumps(value)}; give seconds, 0 or more")
    return float(value)


def _librispeech(data: Path) -> list[Utterance] | None:
    """speaker/chapter/*.trans.txt, each line an id and its words, with id.flac (or another format) beside it."""
    transcripts = sorted(data.glob("*/*/*.trans.txt"))
    if not transcripts:
        return None
    return [utterance for transcript in transcripts for utterance in _each_line(transcript, _librispeech_entry)]


def _librispeech_entry(place: str, line: str) -> Utterance:
    name, _, text = line.partition(" ")
    folder = Path(place.rpartition(":")[0]).parent
    path = next((path for path in sorted(folder.glob(f"{name}.*")) if _is_audio(path)), folder / f"{name}.flac")
    return Utterance(name, path, text.strip(), speaker=folder.parent.name, offset=0.0, duration=None, source=place)


def _same_stem(data: Path) -> list[Utterance] | None:
    """A folder of recordings, at any depth, each with its words in a .txt of the same name, or without."""
    paths = sorted(path for path in data.rglob("*") if _is_audio(path)) if data.is_dir() else []
    return [_beside_text(path, data) for path in paths] or None


def _beside_text(path: Path, data: Path) -> Utterance:
    transcript = path.with_suffix(".txt")
    text = " ".join(line for _, line in _lines(transcript)) if transcript.is_file() else None
    return Utterance(path.relative_to(data).as_posix(), path, text, None, offset=0.0, duration=None, source=str(path))


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


Layout = Callable[[Path], list[Utterance] | None]
LAYOUTS: tuple[Layout, ...] = (_nemo_manifest, _librispeech, _same_stem)
