"""Recordings and their transcripts: find them in any known layout, read one as a mono waveform.

A layout is one file in layouts/, which finds utterances and nothing more. What follows (are recordings and transcripts
there, the subset) is the same for all. What a waveform may be, decided once for calibration and evaluation:

- empty, silent or clipped: kept. A word error rate that leaves out the hard recordings is not one. A waveform may be
  shorter than a model can take; the caller compares its length with `Recognizer.min_samples`.
- NaN or infinite samples: refused, they are not sound.
- any length: `load` reads it whole, so memory is the only limit (64 kB a second at 16 kHz); `blocks` does not.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile
from scipy.signal import resample_poly

from ..foundation import progress, registry
from ..foundation.errors import InputError
from .layouts._entries import SUFFIXES, Entry, Utterance

__all__ = [
    "SUFFIXES",
    "Listing",
    "Utterance",
    "blocks",
    "content_hash",
    "decodable",
    "listing",
    "load",
    "loudness_dbfs",
    "read_utterances",
    "recording",
    "told",
]

ROUNDING = 0.1  # seconds: manifests round durations; a segment that ends this near to the file's end ends with it
MISSING = 1.0  # seconds: a recording this much shorter than it says was cut off, and its transcript is not of it
TOLD = 20  # sentences in one message; who has more mends these first
FEW = 3  # problems of one kind that are told one by one
STDIN = "-"
LISTS = frozenset({".json", ".jsonl", ".tsv", ".csv", ".txt"})
PROMISED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAMED = 0x7FFF0000  # bytes: from here on a header says that its writer did not know
BLOCK = 10.0  # seconds that `blocks` reads at a time
REACH = 10  # of resample_poly's filter on either side, in samples of the lower rate


@dataclass(frozen=True)
class Listing:
    """What some data holds: utterances in its order, and a sentence for each entry that cannot be used."""

    layout: str  # the file in layouts/ that read it
    utterances: list[Utterance]
    problems: list[str]  # each once
    skipped: int = 0  # entries that cannot be used; several may have one problem


def read_utterances(
    data: str | Path, *, require_text: bool, max_samples: int | None = None, seed: int = 0
) -> list[Utterance]:
    """The utterances of `data`, whose layout is detected, in its order; `max_samples` keeps a seeded subset.

    Raises InputError when no layout fits, and with all problems when there are any: a line cannot be read, a
    recording is missing, or, with `require_text`, a transcript is.
    """
    return listing(data, require_text=require_text, max_samples=max_samples, seed=seed).utterances


def listing(
    data: str | Path,
    *,
    require_text: bool,
    max_samples: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Listing:
    """As `read_utterances`; with `skip_bad` what cannot be used is left out, and told in `problems`.

    Without any utterance that can be used it raises InputError all the same.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"max_samples is {max_samples}; give 1 or more")
    found = survey(data, require_text=require_text)
    if found.problems and not (skip_bad and found.utterances):
        raise InputError("\n".join(told([*found.problems, *_of_headers(found.utterances)])))
    if not found.utterances:
        raise InputError(f"{data}: lists no utterances; give a manifest with one on each line")
    if max_samples is None:
        return found
    return replace(found, utterances=_subset(found.utterances, max_samples, seed))


def _of_headers(utterances: Iterable[Utterance]) -> Iterator[str]:
    """What their headers tell to be wrong; to tell it with the rest."""
    for utterance in utterances:
        try:
            length(utterance)
        except InputError as error:
            yield str(error)


def decodable(found: Listing, *, skip_bad: bool) -> Listing:
    """What can be decoded of it: each recording is read once, so that the last cannot waste the work on the others.

    Raises InputError with all that cannot; with `skip_bad` they are problems, unless nothing else is there.
    """
    good, problems = [], []
    for utterance in progress.bar(found.utterances, desc="checking recordings", unit="file"):
        try:
            _decoded(utterance)
            good.append(utterance)
        except InputError as error:
            problems.append(str(error))
    if problems and not (skip_bad and good):
        raise InputError("\n".join(told(problems)))
    told_once = list(dict.fromkeys([*found.problems, *problems]))
    return replace(found, utterances=good, problems=told_once, skipped=found.skipped + len(problems))


def survey(data: str | Path, *, require_text: bool) -> Listing:
    """All that is there, good and bad; raises InputError only when no layout fits or there is no list to read."""
    layout = detect(Path(data))
    utterances: list[Utterance] = []
    problems: list[str] = []
    for entry in layout.read(Path(data)):
        if (problem := _problem(entry, require_text)) is None:
            utterances.append(entry)
        else:
            problems.append(problem)
    return Listing(layout.__name__.rpartition(".")[2], utterances, list(dict.fromkeys(problems)), len(problems))


def detect(path: Path) -> ModuleType:
    """The layout of some data: of those that fit, the one of the lowest rank."""
    layouts = [registry.get("layouts", name) for name in registry.names("layouts")]
    for rank in sorted({layout.RANK for layout in layouts}):  # the higher ones search whole trees
        fitting = [layout for layout in layouts if rank == layout.RANK and layout.detect(path)]
        if len(fitting) > 1:
            titles = " and ".join(layout.TITLE for layout in fitting)
            raise InputError(
                f"{path}: fits more than one layout: {titles}; give the list itself instead of its folder"
            )
        if fitting:
            return fitting[0]
    if path.suffix.lower() in SUFFIXES and path.is_file():
        raise InputError(f"{path}: a recording, not a list of recordings; give its folder as the data")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a manifest or a folder of recordings as the data")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{path}: an empty folder; give a manifest or a folder of recordings as the data")
    titles = ", ".join(layout.TITLE for layout in layouts)
    raise InputError(f"{path}: not data in a known layout; give one of these: {titles}")


def told(problems: list[str]) -> list[str]:
    """A sentence for each, or one for all of a kind when those are many: who has a thousand has one mistake.

    Of a kind are those with the same advice, which is what follows the last semicolon.
    """
    kinds: dict[str, list[str]] = {}
    for problem in dict.fromkeys(problems):
        kinds.setdefault(problem.rpartition("; ")[2], []).append(problem)
    sentences = [each for kind in kinds.values() for each in (kind if len(kind) <= FEW else [_alike(kind)])]
    others = [f"and {len(sentences) - TOLD} more"] if len(sentences) > TOLD else []
    return [*sentences[:TOLD], *others]


def _alike(problems: list[str]) -> str:
    places = ", ".join(problem.partition(": ")[0] for problem in problems[:FEW])
    return f"{problems[0]} ({len(problems)} entries alike: {places}, ...)"


@contextmanager
def standard_input() -> Iterator[Utterance]:
    """The recording on standard input, kept in a temporary file: headers are sought in, and it may be hours long."""
    with tempfile.NamedTemporaryFile(prefix="sfm-quant-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Utterance(STDIN, Path(file.name), None, None, offset=0.0, duration=None, source="standard input")


def recording(path: str | Path) -> Utterance:
    """A whole file of which nothing is known but its path."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; give recordings, as in {Path(path) / '*.wav'}")
    if not Path(path).exists():
        raise InputError(f"{path}: no such recording; correct the path")
    if Path(path).suffix.lower() in LISTS:
        raise InputError(f"{path}: a list, not a recording; give the recordings, or the folder that holds them")
    return Utterance(str(path), Path(path), None, None, offset=0.0, duration=None, source=str(path))


def load(utterance: Utterance, sampling_rate: int) -> np.ndarray:
    """The utterance as float32 mono (samples,) at `sampling_rate` Hz: channels averaged, then resampled (polyphase).

    Raises InputError when the file is missing, empty, corrupt or cut off, when the offset lies past its end, and when
    samples are not finite.
    """
    samples, rate = _decoded(utterance)
    return _resample(samples, rate, sampling_rate)


def blocks(utterance: Utterance, sampling_rate: int) -> Iterator[np.ndarray]:
    """What `load` gives, piece by piece in bounded memory: some seconds (samples,) at a time, equal to it when joined.

    Raises InputError like `load`, but at the block where the reason is met.
    """
    with _opened(utterance) as file:
        start, stop = _span(file, utterance)
        file.seek(start)
        read = file.blocks(round(BLOCK * file.samplerate), frames=stop - start, dtype="float32", always_2d=True)
        yield from _resampled((_mono(each, utterance) for each in read), file.samplerate, sampling_rate)
        _refuse_cut_off(utterance, file.tell() - start, stop - start, file.samplerate)


def length(utterance: Utterance) -> float:
    """Its seconds, from the header; raises InputError like `load` for what a header and a look at the end can tell."""
    with _opened(utterance) as file:
        start, stop = _span(file, utterance)
        end = min(stop, file.frames)
        _refuse_cut_off(utterance, max(0, end - start), stop - start, file.samplerate)
        last = end - round(MISSING * file.samplerate)
        if last > start and (file.seek(last) != last or not len(file.read(1))):
            raise InputError(
                f"{_name(utterance)}: ends before the {end / file.samplerate:.3f} s it should; copy it again"
            )
        return (end - start) / file.samplerate


def content_hash(waveform: np.ndarray) -> str:
    """SHA-256 (hex) of a waveform (samples,) as little-endian float32: the same for a copied or renamed recording."""
    return hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()


def loudness_dbfs(waveform: np.ndarray) -> float | None:
    """Root mean square of a waveform (samples,) in dB, where a square wave of full scale has 0; None for silence."""
    power = float(np.square(waveform, dtype=np.float64).mean()) if len(waveform) else 0.0
    return 10 * math.log10(power) if power else None


def _decoded(utterance: Utterance) -> tuple[np.ndarray, int]:
    """Its samples (frames,), float32, channels averaged, and their rate; raises what `load` does."""
    with _opened(utterance) as file:
        samples, rate = _read(file, utterance), file.samplerate
    return _mono(samples, utterance), rate


@contextmanager
def _opened(utterance: Utterance) -> Iterator[soundfile.SoundFile]:
    """The sound file; what libsndfile refuses, now or while it is read, becomes InputError."""
    name = _name(utterance)
    content = None if utterance.content is None else utterance.content()
    if content is None and (reason := _irregular(utterance.path)):
        raise InputError(f"{utterance.source}: {reason}; correct the path")
    if (len(content) if content is not None else utterance.path.stat().st_size) == 0:
        raise InputError(f"{name}: the file is empty (0 bytes); copy or download it again")
    try:
        with soundfile.SoundFile(os.fsencode(utterance.path) if content is None else io.BytesIO(content)) as file:
            _refuse_half(file, name)
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        raise InputError(f"{name}: cannot be decoded ({reason}); copy it again, or convert it to WAV") from error


def _refuse_half(file: soundfile.SoundFile, name: str) -> None:
    """InputError where the header of a WAV, AIFF or AU promises more than there is; libsndfile only remarks on it.

    Who writes to a pipe does not know the length and writes the largest there is.
    """
    for promised, held in ((int(a), int(b)) for a, b in PROMISED.findall(file.extra_info)):
        seconds = file.frames / file.samplerate
        whole = seconds * promised / max(1, held)
        if promised < STREAMED and whole - seconds > MISSING:
            raise InputError(f"{name}: holds {seconds:.3f} s of the {whole:.3f} s its header promises; copy it again")


def _name(utterance: Utterance) -> str:
    """Where the sound is, for messages: a file, or a place inside one."""
    elsewhere = utterance.content is not None or utterance.id == STDIN
    return utterance.source if elsewhere else str(utterance.path)


def _irregular(path: Path) -> str | None:
    """Why this is no file to read, if so. A pipe or device is one too: each reading would give another sound."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return f"{path} is a folder, not a recording"
        if path.exists():
            return f"{path} is a pipe or device, not a regular file"
        return f"no recording {path}" + (" (a link to a file that is not there)" if path.is_symlink() else "")
    except OSError as error:  # a name too long, a folder that may not be entered
        return f"no recording {path} ({error.strerror})"


def _read(file: soundfile.SoundFile, utterance: Utterance) -> np.ndarray:
    """The utterance's samples (frames, channels), float32, at the file's own rate."""
    start, stop = _span(file, utterance)
    file.seek(start)
    samples: np.ndarray = file.read(stop - start, dtype="float32", always_2d=True)
    _refuse_cut_off(utterance, len(samples), stop - start, file.samplerate)
    return samples


def _span(file: soundfile.SoundFile, utterance: Utterance) -> tuple[int, int]:
    """The first frame of the utterance and the one after its last, as its list has them."""
    start = round(utterance.offset * file.samplerate)
    if start and start >= file.frames:
        raise InputError(
            f"{utterance.source}: offset {utterance.offset:g} s lies past the end of {utterance.path} "
            f"({file.frames / file.samplerate:.3f} s); correct the offset"
        )
    if utterance.duration is None:
        return start, file.frames
    end = start + round(utterance.duration * file.samplerate)
    return start, file.frames if abs(end - file.frames) <= ROUNDING * file.samplerate else end


def _refuse_cut_off(utterance: Utterance, frames: int, expected: int, rate: int) -> None:
    if expected - frames > MISSING * rate:
        raise InputError(
            f"{utterance.source}: {utterance.path} holds {frames / rate:.3f} s of the {expected / rate:.3f} s it "
            "should; copy it again or correct the duration"
        )


def _mono(samples: np.ndarray, utterance: Utterance) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise InputError(f"{_name(utterance)}: has samples that are NaN or infinite; repair or remove the recording")
    mixed: np.ndarray = samples.mean(axis=1)
    return mixed


def _resampled(waveforms: Iterable[np.ndarray], rate: int, target: int) -> Iterator[np.ndarray]:
    """`_resample` of a waveform that comes in blocks: each is resampled with as much around it as the filter reaches.

    All bounds are multiples of `step`, the samples after which input and output meet again.
    """
    step = rate // math.gcd(rate, target)
    reach = step * (1 + -(-REACH * max(rate, target) // target) // step)
    held, done = np.zeros(0, np.float32), 0  # samples; those of them that are here only for the filter
    for waveform in waveforms:
        held = np.concatenate([held, waveform])
        end = (len(held) - reach) // step * step
        if end > done:
            yield _resample(held, rate, target)[done * target // rate : end * target // rate]
            keep = max(0, end - reach)
            held, done = held[keep:], end - keep
    yield _resample(held, rate, target)[done * target // rate :]


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


def _problem(entry: Entry, require_text: bool) -> str | None:
    """Why an entry cannot be used, if so."""
    if isinstance(entry, InputError):
        return str(entry)
    if entry.content is None and (reason := _irregular(entry.path)):
        return f"{entry.source}: {reason}; correct the path or remove the entry"
    if require_text and entry.text is None:
        return f"{entry.source}: no transcript, and word errors are counted against one; add the text"
    return None
