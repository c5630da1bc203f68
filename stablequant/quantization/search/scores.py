"""Scores: how much worse a plan makes the model, in points, and trials that measure it cheaply.

Two scores, both 0 for the float model:

- `wer`: word error rate on the transcripts minus that of the float model, in points (the paper's score).
- `logits`: how far the posteriors of the quantized model are from the float model's, relative to the number of symbols
  that the float model writes (models/tasks/ has the formula of each task). It needs no transcript, and unlike a word
  count it reacts to every change.

A *trial* quantizes some layers. `run_trials` computes the float model once for each recording, keeps the outputs of
its layers, and computes each trial only from its first quantized layer on: the unchanged layers before it are never
computed again. It handles one recording at a time, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...engines.simulation import simulate
from ...evaluation.error_rates import count_words
from ...foundation.errors import InputError
from ...foundation.memory_pages import return_freed_memory
from ...models.recognizer import Recognizer
from ...models.tasks.base import Answer, Part
from ..numerics.reproducible import Reproducible
from ..numerics.weight_grid import QTensor
from ..observation.layer_cache import record, reuse
from ..plan.choice import Choice
from .forward_pass import CalibrationUtterance, Passage, Passages


@dataclass(frozen=True)
class Score:
    """A named score; `measure` compares the changed model with the float model's answer to one recording."""

    name: str
    unit: str  # "": the task's
    measure: Callable[[Recognizer, CalibrationUtterance, Passage, Answer], Part]
    writes: bool = False  # whether models write text for it, token by token if they have a decoder


@dataclass(frozen=True)
class Trial:
    """Some layers quantized, the rest float; `first` is the first of them in forward order."""

    key: str
    first: str
    choices: Mapping[str, Choice]
    weights: Mapping[str, QTensor]


def total(parts: Sequence[Part]) -> float:
    """The score in points over several recordings."""
    return 100.0 * sum(n for n, _ in parts) / max(1e-12, sum(d for _, d in parts))


def _divergence(recognizer: Recognizer, recording: CalibrationUtterance, passage: Passage, answer: Answer) -> Part:
    return recognizer.divergence(passage.inputs, answer, passage.forced)


def _word_errors(recognizer: Recognizer, recording: CalibrationUtterance, passage: Passage, answer: Answer) -> Part:
    text = recording.text or ""
    errors, before = count_words([text, text], [recognizer.text(passage.inputs), answer.text]).errors
    return float(errors - before), float(len(text.split()))


SCORES = {
    "logits": Score("logits", "", _divergence),
    "wer": Score("wer", "points of word error rate lost", _word_errors, writes=True),
}


@torch.inference_mode()
def run_trials(
    passages: Passages,
    layers: Sequence[str],
    recording: CalibrationUtterance,
    trials: Sequence[Trial],
    score: Score,
    progress: Callable[[str], None],
) -> dict[str, Part]:
    """One recording's part of each trial's score, by key; `progress` is called with each key as it begins."""
    return_freed_memory()  # freed by the stage before
    recognizer, passage = passages.recognizer, passages.of(recording)
    model, repeats = recognizer.model, recognizer.task.repeats
    before = layers[: max(layers.index(trial.first) for trial in trials)]
    kept = [layer for layer in before if not (score.writes and repeats(layer))]  # others run with other inputs again
    with record(model, kept) as outputs, Reproducible():
        answer = recognizer.answer(passage.inputs, passage.forced)
    if not answer.logits.isfinite().all():
        raise InputError(
            f"{recording.key}: the model's output is NaN or infinite; its weights or the recording are damaged"
        )
    return_freed_memory()
    parts = {}
    for trial in trials:
        progress(trial.key)
        same = [name for name in layers[: layers.index(trial.first)] if name in outputs]
        with (
            reuse(model, {name: outputs[name] for name in same}),
            simulate(model, trial.choices, trial.weights),
            Reproducible(),
        ):
            parts[trial.key] = score.measure(recognizer, recording, passage, answer)
    return parts
