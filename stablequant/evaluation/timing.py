"""What models answer to recordings, and how long they take.

All models answer each utterance in turn, and the order is turned round every time, so that a machine that slows down
slows all. Each answers twice: oneDNN compiles its kernels for every new input length, so the first answer warms up and
gives the hypothesis, the second is timed, after the others have had the caches. Timed is all that
`Recognizer.transcribe` does: features, network and decoding, one utterance at a time, never padded. Loading and
resampling the recording is not. That is the latency, and `speedup` is its ratio.

A model that takes several utterances in one call also answers half a minute of them so, warmed up and timed likewise.
Throughput is that of each model's better way (the float model has only the one: two utterances at once on a core each
were no faster, scripts/LOG.md), and `speedup_packed` is its ratio.

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
from ..speech.audio import Facts, Utterance


@dataclass(frozen=True)
class Answer:
    text: str
    seconds: float | None  # None: the utterance is too short to be answered


@dataclass(frozen=True)
class TimedUtterance:
    """An utterance and what each model answered, in the order of the models."""

    utterance: Utterance
    seconds: float
    facts: Facts
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Batch:
    """Utterances that fit one call, and the seconds of each model to answer them in one; None: it cannot."""

    utterances: list[TimedUtterance]
    batched_seconds: tuple[float | None, ...]


def timed_batches(utterances: Iterable[tuple[Utterance, Facts]], recognizers: Sequence[Recognizer]) -> Iterator[Batch]:
    """Every model's answers, a batch at a time: no more audio than that is held."""
    rate, fewest = recognizers[0].sampling_rate, max(each.min_samples for each in recognizers)
    timed: list[TimedUtterance] = []
    waveforms: list[np.ndarray] = []
    for turn, (utterance, facts) in enumerate(utterances):
        if timed and sum(map(len, waveforms)) + facts.samples > BATCH_SECONDS * rate:
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
        return tuple(Answer(*each) for each in _in_turn(recognizers, turn, lambda model: model.transcribe(waveform)))
    except InputError as error:
        raise InputError(f"{utterance.id}: {error}") from error


def _batched_seconds(
    waveforms: list[np.ndarray], recognizers: Sequence[Recognizer], turn: int
) -> tuple[float | None, ...]:
    """The seconds of each model to answer them in one call; None where it cannot."""
    batching = [each for each in recognizers if each.batched and waveforms]
    answers = iter(_in_turn(batching, turn, lambda model: model.transcribe_all(waveforms)))
    return tuple(next(answers)[1] if each in batching else None for each in recognizers)


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
