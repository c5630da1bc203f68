"""What a model hears in recordings: half a minute of them in one call, where the model packs utterances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .audio import load, recording
from .errors import InputError
from .models import PACK_SECONDS, Recognizer

Heard = tuple[str, "str | InputError"]  # path, and words or why it cannot be read


def transcribe_files(recognizer: Recognizer, paths: Iterable[str]) -> Iterator[Heard]:
    """(path, words) of each recording in order, or (path, the InputError) of one that cannot be read."""
    waiting: list[tuple[str, np.ndarray | InputError]] = []
    for path in paths:
        sound = _read(recognizer, path)
        if waiting and _samples(waiting) + _samples([(path, sound)]) > PACK_SECONDS * recognizer.sampling_rate:
            yield from _answer(recognizer, waiting)
            waiting = []
        waiting.append((path, sound))
    yield from _answer(recognizer, waiting)


def _read(recognizer: Recognizer, path: str) -> np.ndarray | InputError:
    try:
        return load(recording(path), recognizer.sampling_rate)
    except InputError as error:
        return error


def _samples(sounds: Iterable[tuple[str, np.ndarray | InputError]]) -> int:
    return sum(len(sound) for _, sound in sounds if isinstance(sound, np.ndarray))


def _answer(recognizer: Recognizer, waiting: list[tuple[str, np.ndarray | InputError]]) -> Iterator[Heard]:
    long_enough = [s for _, s in waiting if isinstance(s, np.ndarray) and len(s) >= recognizer.min_samples]
    texts = iter(recognizer.transcribe_all(long_enough) if long_enough else [])
    for path, sound in waiting:
        if isinstance(sound, InputError):
            yield path, sound
        else:
            yield path, next(texts) if len(sound) >= recognizer.min_samples else ""
