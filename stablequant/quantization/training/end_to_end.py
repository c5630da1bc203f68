"""Stage 2: the whole model learns the float model's posteriors, and transcripts where they are asked for.

The loss is the Kullback-Leibler divergence from the float model's posteriors, summed over steps, for each symbol that
the float model writes. It needs no transcripts, and alone it is more stable than the task's own loss
(quantization-aware distillation, arXiv 2601.20088). A model that writes tokens follows the tokens of the float model.
The state with the best score on the development set is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...evaluation.beyond_wer import loops
from ...models.tasks.base import Answer
from ..search.forward_pass import CalibrationUtterance
from ..search.scores import total
from .distillation_data import Lessons
from .layerwise import set_rates
from .settings import TuneSettings, fast_products
from .student import Student


@dataclass
class Progress:
    """Where training end to end is: everything that a later run needs to go on from here."""

    step: int = 0
    best: float = math.inf  # score on the development set
    since: int = 0  # checks since the best one
    losses: list[float] = field(default_factory=list)  # since the last check


@dataclass
class EndToEnd:
    """A student, what it learns from, and what it is checked on; each check is reported."""

    student: Student
    lessons: Lessons
    development: Lessons
    settings: TuneSettings
    loss: str
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.optimizer = self.student.optimizer(self.settings, self.settings.weight_rate)
        self.best = self.student.snapshot()

    def begin(self) -> float:
        """The score before the first step, which is the best so far."""
        self.progress.best = self.score()
        return self.progress.best

    @torch.no_grad()
    def score(self) -> float:
        """How far the student is from the float model on the development set, in points of the task."""
        parts = []
        for recording in self.development.recordings:
            passage = self.development.passage(recording)
            answer = self.development.answer(recording, passage)
            parts.append(self.student.recognizer.divergence(passage.inputs, answer, passage.forced))
        return total(parts)

    def train(self, share: Callable[[], float], checked: Callable[[dict[str, Any]], None], bar: Any) -> bool:
        """Train until `share`, of the training that is done, reaches 1; the best state is loaded at the end.

        It also ends after `patience` checks that were not better. `checked` is called with the record of each check.
        Returns False if the loss was not finite; nothing is learned from there on.
        """
        finite = True
        while self.progress.since < self.settings.patience and (done := share()) < 1:
            if not (finite := self._step(done)):
                break
            self.progress.step += 1
            bar.update()
            if int(done * self.settings.checks) < int(min(1.0, share()) * self.settings.checks):
                checked(self._check())
        self.student.load(self.best)
        return finite

    def _check(self) -> dict[str, Any]:
        """Compare with the best so far; returns what is to be recorded."""
        at, points = self.progress, self.score()
        at.since += 1
        if points < at.best:
            at.best, at.since, self.best = points, 0, self.student.snapshot()
        mean = sum(at.losses) / max(1, len(at.losses))
        at.losses = []
        return {"step": at.step, "loss": round(mean, 6), "score": round(points, 4), "best": round(at.best, 4)}

    def _step(self, done: float) -> bool:
        """One step of the optimizer; False if the loss is not finite, and then nothing is changed."""
        set_rates(self.optimizer, self.settings.factor(done))
        self.optimizer.zero_grad()
        for recording in self.lessons.batch(self.progress.step, self.settings.batch):
            loss = self._loss(recording)
            if loss is None:
                continue
            if not loss.isfinite():
                return False
            (loss / self.settings.batch).backward()
            self.progress.losses.append(float(loss.detach()))
        self.student.collect()
        self.optimizer.step()
        self.student.place()
        return True

    def _loss(self, recording: CalibrationUtterance) -> Tensor | None:
        """The loss of one recording; None where the float model repeats itself, which is nothing to learn."""
        recognizer, passage = self.student.recognizer, self.lessons.passage(recording)
        found = torch.zeros(())
        if self.loss != "task":
            answer = self.lessons.answer(recording, passage)
            if loops(answer.text):
                return None
            with fast_products():
                logits = recognizer.task.logits(recognizer.model, passage.inputs, passage.forced)
            found = divergence(answer, logits.float())
        if self.loss != "distill":
            own = recognizer.task.transcript_loss(recognizer.network, passage.inputs, recording.text or "")
            found = found + own * (1.0 if self.loss == "task" else self.settings.transcripts)
        return found


def divergence(answer: Answer, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a changed model from an answer, for each symbol that was written."""
    wanted, found = answer.logits.log_softmax(-1), logits.log_softmax(-1)
    return F.kl_div(found, wanted, reduction="sum", log_target=True) / answer.written
