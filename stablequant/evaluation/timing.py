"""What models answer to recordings, and how long they take.

All models answer each utterance in turn, and the order is turned round every time, so that a machine that slows down
slows all. Each answers twice: oneDNN compiles its kernels for every new input length, so the first answer warms up and
gives the hypothesis, the second is timed, after the others have had the caches. Timed is all that
`Recognizer.transcribe` does: features, network and decoding, one utterance at a time, never padded. Loading and
resampling the recording is not. That is the latency, and `speedup` is its ratio.

A model that can pack also answers half a minute of utterances in one call, warmed up and timed likewise. Throughput
is that of each model's better way (the float model has only the one: two utterances at once on a core each were no
faster, scripts/LOG.md), and `speedup_packed` is its ratio.

An utterance too short for the model to give one frame counts as recognised as nothing: all its words are deletions.
It has no time, and is left out of the speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..foundation.errors import InputError
from ..models.recognizer import BATCH_SECONDS, Recognizer
from ..speech import audio
from ..speech.audio import Utterance


@dataclass(frozen=True)
class Answer:
    text: str
    seconds: float | None  # None: the utterance is too short to be answered


@dataclass(frozen=True)
class Heard:
    """An utterance and what each model answered, in the order of the models."""

    utterance: Utterance
    seconds: float
    sha256: str
    loudness_dbfs: float | None  # None: silence
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Group:
    """Utterances that fit one packed call, and the seconds of each model to answer them so; None: it does not pack."""

    heard: list[Heard]
    packed_seconds: tuple[float | None, ...]


def hear_all(utterances: Iterable[Utterance], recognizers: Sequence[Recognizer]) -> Iterator[Group]:
    """Every model's answers, a group at a time: no more audio than that is held."""
    rate, fewest = recognizers[0].sampling_rate, max(each.min_samples for each in recognizers)
    heard: list[Heard] = []
    waveforms: list[np.ndarray] = []
    for turn, utterance in enumerate(utterances):
        waveform = audio.load(utterance, rate)
        if heard and sum(map(len, waveforms)) + len(waveform) > BATCH_SECONDS * rate:
            yield Group(heard, _hear_packed(waveforms, recognizers, turn))
            heard, waveforms = [], []
        heard.append(_hear(utterance, waveform, recognizers, turn))
        waveforms += [waveform] if len(waveform) >= fewest else []
    if heard:
        yield Group(heard, _hear_packed(waveforms, recognizers, len(heard)))


def _hear(utterance: Utterance, waveform: np.ndarray, recognizers: Sequence[Recognizer], turn: int) -> Heard:
    """Every model's answer to an utterance."""
    if len(waveform) < max(each.min_samples for each in recognizers):
        answers = [Answer("", None) for _ in recognizers]
    else:
        try:
            answers = [Answer(*each) for each in _in_turn(recognizers, turn, lambda model: model.transcribe(waveform))]
        except InputError as error:
            raise InputError(f"{utterance.id}: {error}") from error
    seconds = len(waveform) / recognizers[0].sampling_rate
    return Heard(utterance, seconds, audio.content_hash(waveform), audio.loudness_dbfs(waveform), tuple(answers))


def _hear_packed(
    waveforms: list[np.ndarray], recognizers: Sequence[Recognizer], turn: int
) -> tuple[float | None, ...]:
    """The seconds of each model that packs to answer them in one call."""
    packing = [each for each in recognizers if each.batched and waveforms]
    answers = iter(_in_turn(packing, turn, lambda model: model.transcribe_all(waveforms)))
    return tuple(next(answers)[1] if each in packing else None for each in recognizers)


T = TypeVar("T")


def _in_turn(recognizers: Sequence[Recognizer], turn: int, answer: Callable[[Recognizer], T]) -> list[tuple[T, float]]:
    """What each model answers, and the seconds of its second answer; at odd turns the last model goes first."""
    step = -1 if turn % 2 else 1
    answers = [answer(each) for each in recognizers[::step]]
    seconds = [_timed(answer, each) for each in recognizers[::step]]
    return list(zip(answers, seconds, strict=True))[::step]


def _timed(answer: Callable[[Recognizer], T], recognizer: Recognizer) -> float:
    start = time.perf_counter()
    answer(recognizer)
    return time.perf_counter() - start
