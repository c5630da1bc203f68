"""The text that models recognise in recordings, and the time they take.

All models transcribe each utterance in turn, and the order is reversed every time, so that a machine that slows down
slows all of them. Each transcribes it twice: oneDNN compiles its kernels for every new input length, so the first run
warms up and provides the hypothesis; the second is timed, after the other models have used the caches. The time covers
everything that recognition does: features, network and decoding, one utterance at a time, never padded. It
does not include loading and resampling. This is the latency, and `speedup` is its ratio.

A model that can batch also transcribes half a minute of utterances, or eight windows, in one call, warmed up and timed
in the same way.
The throughput is that of each model's faster way (the float model has only one: two utterances at once on one core
each were no faster, scripts/LOG.md), and `speedup_packed` is its ratio.

An utterance that is too short for one frame is scored as an empty transcript: all its words are deletions. It has no
time and is left out of the speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..foundation.errors import InputError
from ..models.recognizer import Recognizer
from ..speech import audio
from ..speech.audio import Facts, Utterance
from ..speech.longform import texts


@dataclass(frozen=True)
class Answer:
    text: str
    seconds: float | None  # None: the utterance is too short to be answered
    temperature: float = 0.0  # above 0 where a part repeated itself and was decoded again


@dataclass(frozen=True)
class TimedUtterance:
    """An utterance and each model's answer, in the order of the models."""

    utterance: Utterance
    seconds: float
    facts: Facts
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Batch:
    """Utterances that fit one batched call, and each model's seconds for that call; None: it cannot batch."""

    utterances: list[TimedUtterance]
    batched_seconds: tuple[float | None, ...]


def timed_batches(utterances: Iterable[tuple[Utterance, Facts]], recognizers: Sequence[Recognizer]) -> Iterator[Batch]:
    """Every model's answers, one batch at a time, so that no more audio than that is in memory."""
    rate, fewest = recognizers[0].sampling_rate, max(each.min_samples for each in recognizers)
    timed: list[TimedUtterance] = []
    waveforms: list[np.ndarray] = []
    for turn, (utterance, facts) in enumerate(utterances):
        if timed and not recognizers[0].fits([*map(len, waveforms), facts.samples]):
            yield Batch(timed, _batched_seconds(waveforms, recognizers, turn))
            timed, waveforms = [], []
        answers = tuple(Answer("", None) for _ in recognizers)
        if facts.samples >= fewest:
            waveforms.append(audio.load(utterance, rate))
            answers = _answers(utterance, waveforms[-1], recognizers, turn)
        timed.append(TimedUtterance(utterance, facts.samples / rate, facts, answers))
    if timed:
        yield Batch(timed, _batched_seconds(waveforms, recognizers, len(timed)))


def _answers(
    utterance: Utterance, waveform: np.ndarray, recognizers: Sequence[Recognizer], turn: int
) -> tuple[Answer, ...]:
    """Every model's answer to an utterance."""
    try:
        found = _in_turn(recognizers, turn, lambda model: texts(model, [waveform])[0])
        return tuple(Answer(text, seconds, temperature) for (text, temperature), seconds in found)
    except InputError as error:
        raise InputError(f"{utterance.id}: {error}") from error


def _batched_seconds(
    waveforms: list[np.ndarray], recognizers: Sequence[Recognizer], turn: int
) -> tuple[float | None, ...]:
    """Each model's seconds to transcribe them in one call; None if it cannot."""
    batching = [each for each in recognizers if each.batches and waveforms]
    answers = iter(_in_turn(batching, turn, lambda model: texts(model, waveforms)))
    return tuple(next(answers)[1] if each in batching else None for each in recognizers)


T = TypeVar("T")


def _in_turn(recognizers: Sequence[Recognizer], turn: int, answer: Callable[[Recognizer], T]) -> list[tuple[T, float]]:
    """Each model's answer, and the seconds of its second run; on odd turns the last model goes first."""
    step = -1 if turn % 2 else 1
    answers = [answer(each) for each in recognizers[::step]]
    seconds = [_timed(answer, each) for each in recognizers[::step]]
    return list(zip(answers, seconds, strict=True))[::step]


def _timed(answer: Callable[[Recognizer], T], recognizer: Recognizer) -> float:
    start = time.perf_counter()
    answer(recognizer)
    return time.perf_counter() - start
