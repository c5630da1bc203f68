"""How much worse a plan makes the model, in points, and the probe that measures it cheaply.

Two scores, both 0 for the float model:

- `wer`: word error rate on the transcripts minus that of the float model, in points (the paper's score).
- `logits`: total variation distance between the CTC posteriors of the float and the quantized model, over the symbols
  that the float model writes, 100 / symbols * sum_t 1/2 sum_v |p_float(t, v) - p(t, v)|. The sum is the number of
  frames whose symbol would differ if both were drawn from their posteriors under the best coupling, and a written
  symbol changes only where a frame does: so it is, as `wer`, in % of what is written. (Over frames it would shrink
  with the blanks between symbols, and the threshold would mean something else for every vocabulary.) It needs no
  transcript, and unlike a word count it moves with every change.

A *trial* quantizes some layers. `run_trials` computes the float model once for each recording, keeps the outputs of
its layers, and answers each trial by recomputing only from the first quantized layer on: the prefix that the trial
leaves unchanged is never computed again. One recording at a time, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
import torch
from torch import Tensor

from ...engines.simulation import simulate
from ...foundation.errors import InputError
from ...foundation.memory_pages import return_freed_memory as trim
from ...foundation.reproducible import Reproducible
from ...models.recognizers import Recognizer
from ..numerics.weight_grid import QTensor
from ..observation.layer_cache import record, reuse
from ..plan.choice import Choice

Part = tuple[float, float]  # numerator and denominator of a score on one recording


@dataclass(frozen=True)
class Recording:
    """A calibration recording: how to read it, and its transcript where there is one."""

    key: str
    read: Callable[[], np.ndarray]  # (samples,) float32 at the model's rate
    text: str | None


@dataclass(frozen=True)
class Score:
    """A named score; `measure` compares the logits (frames, vocabulary) of both models on one recording."""

    name: str
    unit: str
    measure: Callable[[Recognizer, Recording, Tensor, Tensor], Part]


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


def _total_variation(recognizer: Recognizer, recording: Recording, reference: Tensor, logits: Tensor) -> Part:
    distance = 0.5 * (reference.softmax(-1) - logits.softmax(-1)).abs().sum(-1).sum()  # short sums: the same anywhere
    return float(distance), float(max(1, _written(reference.argmax(-1), recognizer.blank)))


def _written(path: Tensor, blank: int) -> int:
    """Symbols that greedy CTC writes for the best symbols of the frames."""
    begins = torch.cat([torch.tensor([True]), path[1:] != path[:-1]])
    return int((begins & (path != blank)).sum())


def _word_errors(recognizer: Recognizer, recording: Recording, reference: Tensor, logits: Tensor) -> Part:
    text = recording.text or ""
    words = len(text.split())
    lost = _errors(text, recognizer.decode(logits)) - _errors(text, recognizer.decode(reference))
    return float(lost), float(words)


def _errors(reference: str, hypothesis: str) -> int:
    if not reference.split():  # jiwer refuses an empty reference; every word is then an insertion
        return len(hypothesis.split())
    counts = jiwer.process_words(reference, hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions


SCORES = {
    "logits": Score("logits", "frames that change for 100 symbols (total variation)", _total_variation),
    "wer": Score("wer", "points of word error rate lost", _word_errors),
}


@torch.inference_mode()
def run_trials(
    recognizer: Recognizer,
    layers: Sequence[str],
    recording: Recording,
    trials: Sequence[Trial],
    score: Score,
    progress: Callable[[str], None],
) -> dict[str, Part]:
    """The part of each trial's score that one recording gives, by key; `progress` hears each key as it begins."""
    trim()  # what the stage before left between its blocks
    inputs = recognizer.input_values(recording.read())
    model = recognizer.model
    with record(model, layers[: max(layers.index(trial.first) for trial in trials)]) as outputs, Reproducible():
        reference = model(inputs).logits[0]
    if not reference.isfinite().all():
        raise InputError(
            f"{recording.key}: the model's output is not finite; its weights, or the recording, are damaged"
        )
    trim()
    parts = {}
    for trial in trials:
        progress(trial.key)
        with (
            reuse(model, {name: outputs[name] for name in layers[: layers.index(trial.first)]}),
            simulate(model, trial.choices, trial.weights),
            Reproducible(),
        ):
            logits = model(inputs).logits[0]
        parts[trial.key] = score.measure(recognizer, recording, reference, logits)
    return parts
