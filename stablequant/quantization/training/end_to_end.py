"""Stage 2: the whole model learns the float model's posteriors, and transcripts where they are asked for.

The loss is the Kullback-Leibler divergence from the float model's posteriors, summed over steps, for each symbol that
the float model writes. It needs no transcripts, and alone it is more stable than the task's own loss
(quantization-aware distillation, arXiv 2601.20088). A model that writes tokens follows the tokens of the float model.
The state that does best on the development set is kept: by its distance to the float model, or, if transcripts are
learned, by the loss that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...evaluation.error_rates import count_words, normalizer
from ...models.tasks.base import Answer
from ...models.tasks.repetition import loops
from ..search.forward_pass import CalibrationUtterance
from ..search.scores import total
from .distillation_data import Lessons
from .layerwise import finite_or_none
from .settings import TuneSettings, fast_products
from .student import Student


@dataclass
class Progress:
    """Where training end to end is: everything that a later run needs to go on from here."""

    step: int = 0
    best: float = math.inf  # what chooses the best state, of that state
    score: float = math.inf  # of the best state: its distance to the float model on the development set
    latest: float = 0.0  # the same of the last check
    since: int = 0  # checks since the best one
    loss: float = 0.0  # summed since the last check
    symbols: float = 0.0  # that it was summed over


@dataclass
class EndToEnd:
    """A student, what it learns from, and what it is checked on; each check is reported."""

    student: Student
    lessons: Lessons
    development: Lessons
    settings: TuneSettings
    loss: str
    progress: Progress

    def __post_init__(self) -> None:
        self.optimizer = self.student.optimizer(self.settings, self.settings.weight_rate)
        self.best = self.student.snapshot()
        self.repeating: set[str] = set()  # recordings on which the float model repeats itself

    def train(self, share: Callable[[int], float], checked: Callable[[dict[str, Any]], None], bar: Any) -> bool:
        """Train until `share`, of the training that is done after so many steps, reaches 1; loads the best state.

        It also ends after `patience` checks that were not better. `checked` is called with the record of each check,
        the first one before the first step. Returns False if a loss, a gradient or a score was not finite; nothing is
        learned from there on.
        """
        finite, at = True, self.progress
        if at.step == 0 and not math.isfinite(at.best):  # a resumed training was checked before
            checked(self._check())
        while finite and at.since < self.settings.patience and (done := share(at.step)) < 1:
            if not (finite := self._step(done)):
                break
            at.step += 1
            bar.update()
            if int(done * self.settings.checks) < int(min(1.0, share(at.step)) * self.settings.checks):
                checked(self._check())
                finite = math.isfinite(at.latest)
        self.student.load(self.best)
        return finite

    def _check(self) -> dict[str, Any]:
        """Compare with the best so far; returns what is to be recorded."""
        at, found = self.progress, self._on_development()
        chosen_by = found.get("development_loss", found["score"])
        better, at.latest = at.step == 0 or chosen_by < at.best, found["score"]
        if better:
            at.best, at.score, at.since, self.best = chosen_by, found["score"], 0, self.student.snapshot()
        else:
            at.since += 1
        mean = {"loss": at.loss / at.symbols} if at.symbols else {}
        at.loss = at.symbols = 0.0
        rounded = {name: finite_or_none(round(each, 6)) for name, each in {**mean, **found}.items()}
        return {"step": at.step, **rounded, "kept": better}

    @torch.no_grad()
    def _on_development(self) -> dict[str, float]:
        """The score: how far the student is from the float model, in points of the task; and what transcripts show."""
        recordings, parts, losses = self.development.recordings, [], []
        for recording in recordings:
            passage = self.development.passage(recording)
            answer = self.development.answer(recording, passage)
            parts.append(self.student.recognizer.divergence(passage.inputs, answer, passage.forced))
            if self.loss != "distill":
                losses.append(self._loss(self.development, recording))
        found = {"score": total(parts)}
        if known := [each for each in losses if each is not None]:  # none if the float model repeats itself on all
            found["development_loss"] = float(sum(loss for loss, _ in known) / sum(symbols for _, symbols in known))
        if math.isfinite(found["score"]) and all(each.text is not None for each in recordings):
            found["wer"] = self._word_error_rate(recordings)
        return found

    def _word_error_rate(self, recordings: Sequence[CalibrationUtterance]) -> float:
        """In %, without case and punctuation."""
        plain, recognizer = normalizer("basic"), self.student.recognizer
        texts = [recognizer.text(self.development.passage(each).inputs) for each in recordings]
        return count_words([plain(each.text or "") for each in recordings], list(map(plain, texts))).percent()

    def _step(self, done: float) -> bool:
        """One step of the optimizer; False if a loss or a gradient is not finite, and then nothing is changed."""
        written = 0.0
        for recording in self.lessons.batch(self.progress.step, self.settings.batch):
            if (found := self._loss(self.lessons, recording)) is None:
                continue
            loss, symbols = found
            if not loss.isfinite():
                return False
            loss.backward()
            written += symbols
            self.progress.loss += float(loss.detach())
        self.progress.symbols += written
        return not written or self.student.step(self.optimizer, self.settings.factor(done), parts=written)

    def _loss(self, lessons: Lessons, recording: CalibrationUtterance) -> tuple[Tensor, float] | None:
        """The loss of one recording, summed over symbols, and their number.

        None where the float model repeats itself, which is nothing to learn.
        """
        recognizer, passage = self.student.recognizer, lessons.passage(recording)
        found, written = torch.zeros(()), 0.0
        if self.loss != "task":
            answer = lessons.answer(recording, passage)
            if loops(answer.text):
                self.repeating.add(recording.key)
                return None
            with fast_products():
                logits = recognizer.task.logits(recognizer.model, passage.inputs, passage.forced)
            found, written = divergence(answer, logits.float()), float(answer.written)
        if self.loss != "distill":
            own, symbols = recognizer.task.transcript_loss(
                recognizer.network, passage.inputs, passage.forced, recording.text or ""
            )
            if self.loss == "task":
                return own, symbols
            found = found + own * (self.settings.transcripts * written / symbols)
        return found, written


def divergence(answer: Answer, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence () of a changed model from an answer, summed over its steps."""
    wanted, found = answer.logits.log_softmax(-1), logits.log_softmax(-1)
    return F.kl_div(found, wanted, reduction="sum", log_target=True)
