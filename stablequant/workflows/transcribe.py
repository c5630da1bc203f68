"""What a model hears in recordings: half a minute of short ones in one call if the model packs, a long one in pieces.

A recording of up to LONG seconds is recognised whole, as by `eval`. A longer one is never held whole: it is cut at
its pauses (pauses.py), and its words are those of its pieces (longform.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..foundation import progress
from ..foundation.errors import InputError
from ..models.recognizer import BATCH_SECONDS, Recognizer
from ..models.tasks import ctc, ctc_words
from ..speech import audio
from ..speech.audio import Utterance
from ..speech.layouts._entries import files_below, is_audio, is_unread, unread
from ..speech.longform import Stretch, stretches

LONG = BATCH_SECONDS  # what lasts longer is recognised in pieces


@dataclass(frozen=True)
class Word:
    word: str
    start: float  # seconds from the start of the recording
    end: float


@dataclass(frozen=True)
class Transcript:
    """The text of a recording."""

    audio_filepath: str
    duration: float  # seconds
    text: str
    words: tuple[Word, ...] | None = None  # None: not asked for

    def to_json(self) -> dict[str, Any]:
        """A line of a NeMo manifest."""
        return {key: value for key, value in asdict(self).items() if value is not None}


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
        if _samples([*waiting, (path, sound)]) > BATCH_SECONDS * recognizer.sampling_rate:
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
            if (seconds := audio.length(utterance)) > LONG:
                return _long(recognizer, utterance, seconds, words)
            return audio.load(utterance, recognizer.sampling_rate)
    except InputError as error:
        return error


def _long(recognizer: Recognizer, utterance: Utterance, seconds: float, words: bool) -> Transcript:
    blocks, found = audio.blocks(utterance, recognizer.sampling_rate), []
    with progress.bar(total=round(seconds), desc=utterance.id, unit="s") as bar:
        for stretch in stretches(recognizer, blocks):
            found.append(stretch)
            end = stretch.start + len(stretch.symbols) * recognizer.stride
            bar.update(min(bar.total, end // recognizer.sampling_rate) - bar.n)
    return _transcript(recognizer, utterance.id, seconds, found, words)


def _samples(sounds: Iterable[Pending]) -> int:
    return sum(len(sound) for _, sound in sounds if isinstance(sound, np.ndarray))


def _answer(recognizer: Recognizer, waiting: list[Pending], words: bool) -> Iterator[Transcribed]:
    long_enough = [s for _, s in waiting if isinstance(s, np.ndarray) and len(s) >= recognizer.min_samples]
    logits = iter(recognizer.logits_all(long_enough))
    for path, sound in waiting:
        if not isinstance(sound, np.ndarray):
            yield path, sound
            continue
        try:
            spoken = [Stretch(0, ctc.best(next(logits)))] if len(sound) >= recognizer.min_samples else []
            yield path, _transcript(recognizer, path, len(sound) / recognizer.sampling_rate, spoken, words)
        except InputError as error:
            yield path, InputError(f"{path}: {error}")


def _transcript(
    recognizer: Recognizer, path: str, seconds: float, spoken: Sequence[Stretch], words: bool
) -> Transcript:
    texts = [ctc.decode(each.symbols, recognizer.processor.tokenizer) for each in spoken]
    timed = tuple(_words(recognizer, spoken)) if words else None
    return Transcript(path, round(seconds, 3), " ".join(filter(None, texts)), timed)


def _words(recognizer: Recognizer, spoken: Iterable[Stretch]) -> Iterator[Word]:
    letters = ctc_words.alphabet(recognizer.processor.tokenizer)
    for stretch in spoken:
        for span in ctc_words.words(stretch.symbols, letters):
            samples = (stretch.start + frame * recognizer.stride for frame in (span.first, span.end))
            start, end = (round(each / recognizer.sampling_rate, 3) for each in samples)
            yield Word(span.word, start, end)
