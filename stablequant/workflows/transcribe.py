"""What a model hears in recordings: half a minute of short ones in one call if the model packs, a long one in pieces.

A recording of up to half a minute is recognised whole, as by `eval`. A longer one is never held whole: it is cut at
its pauses (pauses.py), and its words are those of its pieces (longform.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..foundation import progress
from ..foundation.errors import InputError
from ..models.recognizer import Recognizer
from ..models.tasks.base import Word
from ..speech import audio
from ..speech.audio import Utterance
from ..speech.layouts._entries import files_below, is_audio, is_unread, unread
from ..speech.longform import Stretch, stretches


@dataclass(frozen=True)
class Transcript:
    """The text of a recording."""

    audio_filepath: str
    duration: float  # seconds
    text: str
    words: tuple[Word, ...] | None = None  # from the start of the recording; None: not asked for
    warning: str | None = None  # what a reader of the text should know; None: nothing

    def to_json(self) -> dict[str, Any]:
        """A line of a NeMo manifest."""
        shown = {**asdict(self), "words": None if self.words is None else [*map(_entry, self.words)]}
        return {key: value for key, value in shown.items() if value is not None}


def _entry(word: Word) -> dict[str, Any]:
    return {"word": word.word, "start": word.start, "end": word.end}


class Said(NamedTuple):
    """What is kept of a stretch of a recording."""

    text: str
    words: tuple[Word, ...]
    temperature: float


Transcribed = tuple[str, "Transcript | InputError"]  # path, and what is said or why it cannot be read
Pending = tuple[str, "np.ndarray | Transcript | InputError"]  # a waveform is still to be recognised


def find(paths: Iterable[str]) -> list[str]:
    """The recordings at some paths: files as they are, and all recordings in a folder at any depth, sorted."""
    return [recording for path in paths for recording in (_inside(path) if Path(path).is_dir() else [path])]


def transcribe_files(recognizer: Recognizer, paths: Iterable[str], *, words: bool = False) -> Iterator[Transcribed]:
    """The text of each recording, in order, or why it cannot be read; "-" is a recording on standard input."""
    waiting: list[Pending] = []
    for path in paths:
        sound = _read(recognizer, path, words)
        if not recognizer.fits(_samples([*waiting, (path, sound)])):
            yield from _answer(recognizer, waiting, words)
            waiting = []
        waiting.append((path, sound))
    yield from _answer(recognizer, waiting, words)


def _inside(folder: str) -> list[str]:
    files = list(files_below(Path(folder)))
    found = sorted(str(each) for each in files if is_audio(each))
    others = unread(Path(folder), filter(is_unread, files))
    if not found:
        raise InputError(others or f"{folder}: contains no recordings; pass files, or a folder that contains some")
    if others:
        print(others, file=sys.stderr)
    return found


def _read(recognizer: Recognizer, path: str, words: bool) -> np.ndarray | Transcript | InputError:
    """The waveform of a short recording, or the text of a long one."""
    try:
        pipe = path == audio.STDIN or Path(path).is_fifo()
        with audio.piped(path) if pipe else nullcontext(audio.whole_file(path)) as utterance:
            if (seconds := audio.length(utterance)) > recognizer.longest:
                return _long(recognizer, utterance, seconds, words)
            return audio.load(utterance, recognizer.sampling_rate)
    except InputError as error:
        return error


def _long(recognizer: Recognizer, utterance: Utterance, seconds: float, words: bool) -> Transcript:
    blocks, parts = audio.blocks(utterance, recognizer.sampling_rate), list[Said]()
    with progress.bar(total=round(seconds), desc=utterance.id, unit="s") as bar:
        for stretch in stretches(recognizer, blocks):
            parts.append(_said(recognizer, stretch, words))
            bar.update(min(bar.total, stretch.end // recognizer.sampling_rate) - bar.n)
    return _transcript(utterance.id, seconds, parts, words)


def _samples(sounds: Iterable[Pending]) -> list[int]:
    return [len(sound) for _, sound in sounds if isinstance(sound, np.ndarray)]


def _answer(recognizer: Recognizer, waiting: list[Pending], words: bool) -> Iterator[Transcribed]:
    whole = [s for _, s in waiting if isinstance(s, np.ndarray) and len(s) >= recognizer.min_samples]
    answers = iter(_recognised(recognizer, whole))
    for path, sound in waiting:
        if not isinstance(sound, np.ndarray):
            yield path, sound
            continue
        seconds = len(sound) / recognizer.sampling_rate
        if len(sound) < recognizer.min_samples:
            yield path, replace(_transcript(path, seconds, [], words), warning=_too_short(recognizer, seconds))
            continue
        spoken = next(answers)
        if isinstance(spoken, InputError):
            yield path, InputError(f"{path}: {spoken}")
            continue
        yield path, _transcript(path, seconds, [_said(recognizer, stretch, words) for stretch in spoken], words)


def _too_short(recognizer: Recognizer, seconds: float) -> str:
    least = 1000 * recognizer.min_samples / recognizer.sampling_rate
    return f"too short to recognise ({1000 * seconds:.3g} ms; the model needs {least:.3g} ms), so its text is empty"


def _recognised(recognizer: Recognizer, waveforms: list[np.ndarray]) -> Iterator[list[Stretch] | InputError]:
    """What is spoken in each waveform; where one of several cannot be answered, each is tried by itself."""
    try:
        for waveform, spoken in zip(waveforms, recognizer.recognise(waveforms), strict=True):
            yield [Stretch(0, len(waveform), spoken)]
    except InputError as error:
        if len(waveforms) == 1:
            yield error
            return
        for waveform in waveforms:
            yield from _recognised(recognizer, [waveform])


def _said(recognizer: Recognizer, stretch: Stretch, words: bool) -> Said:
    """What of a stretch is kept, with its words in the recording."""
    begin, spoken = stretch.start / recognizer.sampling_rate, stretch.spoken
    moved = (
        word._replace(start=round(begin + word.start, 3), end=round(begin + word.end, 3))
        for word in (spoken.words() if words else ())
    )
    return Said(spoken.text, tuple(moved), spoken.temperature)


def _transcript(path: str, seconds: float, parts: Sequence[Said], words: bool) -> Transcript:
    text = " ".join(filter(None, (each.text for each in parts)))
    found = tuple(word for each in parts for word in each.words) if words else None
    hottest, warning = max((each.temperature for each in parts), default=0.0), None
    if hottest:
        warning = f"a part repeated itself and was decoded again by sampling (temperature {hottest:g}); check the text"
    return Transcript(path, round(seconds, 3), text, found, warning)
