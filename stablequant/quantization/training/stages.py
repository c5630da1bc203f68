"""Both stages of a training, one after the other: what is done is kept in a journal, and steps or minutes limit it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...foundation import files, progress
from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from ..search.forward_pass import CalibrationUtterance, Passages
from .distillation_data import Lessons, joined
from .end_to_end import EndToEnd, Progress
from .layerwise import LayerTraining
from .resume import Done, Journal, of_kind, restore
from .settings import TuneSettings
from .student import Student
from .width_search import WidthSearch


class _Clock:
    """Seconds of training, those of earlier runs counted."""

    def __init__(self, before: float) -> None:
        self.began = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self.began


@dataclass(frozen=True)
class Stages:
    """What both stages need; intermediate results of layers are kept next to the folder `out`."""

    student: Student
    settings: TuneSettings
    journal: Journal
    out: Path
    seed: int
    loss: str  # "distill", "task" or "both"
    minutes: float | None  # for all stages; None: the steps in the settings
    widths_learned: bool = False  # before both stages, in a share of the minutes

    def search_widths(
        self, training: Sequence[CalibrationUtterance], limit: float
    ) -> tuple[WidthSearch, list[JsonObject]]:
        """Learn the widths of a student's mixed weights; the search, and what is to be recorded of it."""
        clock, passages, records = _Clock(0.0), Passages(self.student.teacher), list[JsonObject]()
        lessons = Lessons(passages, self._shared_windows(training), self.seed)
        search = WidthSearch(
            *(self.student, lessons, lessons, self.settings, self.loss, Progress()),
            limit=limit,
        )
        steps = self.settings.width_steps
        share = self._share(steps, clock, 0.0, 60 * self.settings.width_share * (self.minutes or 0))
        with progress.bar(desc="widths", total=self._total(steps), unit="step") as bar:
            finite = search.train(share, lambda record: records.append({"stage": "widths", **record}), bar)
        self._report(search, finite, "learning the bits of weights")
        return search, records

    def train(self, training: Sequence[CalibrationUtterance], development: Sequence[CalibrationUtterance]) -> Done:
        """Train layer by layer, then end to end, from where an earlier run stopped; the best state is loaded."""
        done, tensors = self.journal.load()
        if tensors:
            self.student.load(of_kind(tensors, "now"))
        of_widths = 60 * self.settings.width_share * (self.minutes or 0) if self.widths_learned else 0.0
        clock, passages = _Clock(done.seconds or of_widths), Passages(self.student.teacher)
        lessons = Lessons(passages, self._shared_windows(training), self.seed)
        finite = self._layer_by_layer(lessons, done, clock)

        whole = EndToEnd(
            *(self.student, lessons, Lessons(passages, development, self.seed), self.settings, self.loss),
            done.progress or Progress(),
        )
        if done.progress is not None:
            restore(whole, tensors)

        def checked(record: JsonObject) -> None:
            done.records.append({"stage": "end to end", **record})
            done.progress, done.seconds = whole.progress, clock.seconds()
            self.journal.save(done, self.student, whole)

        share = self._share(self.settings.steps, clock, done.alone or 0.0, 60 * (self.minutes or 0))
        with progress.bar(desc="end to end", total=self._total(self.settings.steps), unit="step") as bar:
            bar.update(whole.progress.step)
            finite = whole.train(share, checked, bar) and finite
        done.progress = whole.progress
        self._report(whole, finite, "training end to end")
        return done

    def _layer_by_layer(self, lessons: Lessons, done: Done, clock: _Clock) -> bool:
        """Train the layers that are left; returns False if the error of one was not finite."""
        finite = True
        if self.settings.layer_steps and done.alone is None:
            with files.workspace(self.out) as folder:
                training = LayerTraining(self.student, lessons, self.settings, folder)
                left = [layer for layer in training.layers if layer not in done.layers]
                total = self._total(len(left) * self.settings.layer_steps)
                with progress.bar(desc="layer by layer", total=total, unit="step") as bar:
                    for number, layer in enumerate(left):
                        bar.set_description(layer, refresh=False)
                        now = clock.seconds()
                        until = now + (60 * self.settings.layer_share * (self.minutes or 0) - now) / (
                            len(left) - number
                        )
                        record = training.train(layer, self._share(self.settings.layer_steps, clock, now, until), bar)
                        finite = finite and record["after"] is not None
                        done.records.append({"stage": "layer by layer", "layer": layer, **record})
                        done.layers.append(layer)
                        done.seconds = clock.seconds()
                        self.journal.save(done, self.student)
        if done.alone is None:
            done.alone = clock.seconds()
        return finite

    def _total(self, steps: int) -> int | None:
        return steps if self.minutes is None else None

    def _share(self, steps: int, clock: _Clock, begin: float, end: float) -> Callable[[int], float]:
        """How much of a training is done after some steps: by their number, or by seconds if time is the limit."""
        if self.minutes is None:
            return lambda step: step / steps
        return lambda _step: (clock.seconds() - begin) / (end - begin) if end > begin else 1.0

    def _shared_windows(self, recordings: Sequence[CalibrationUtterance]) -> Sequence[CalibrationUtterance]:
        """Where a model takes windows of one length, short recordings share them."""
        teacher = self.student.teacher
        if (window := teacher.geometry.window) is None:
            return recordings
        seconds = window / teacher.sampling_rate
        fits = lambda text: self.loss == "distill" or teacher.task.learnable(teacher.network, seconds, text)  # noqa: E731
        return joined(recordings, window, teacher.sampling_rate, fits)

    def _report(self, whole: EndToEnd, finite: bool, what: str) -> None:
        if not math.isfinite(whole.progress.score):
            name = self.student.teacher.path
            raise InputError(f"{name}: its quantized form gives NaN or infinite outputs on the recordings held out")
        if whole.repeating:
            warnings.warn(
                f"{len(whole.repeating)} of {len(whole.lessons.recordings)} recordings (or windows of several) were "
                f"left out of {what}, because the float model repeats itself there",
                stacklevel=1,
            )
        if not finite:
            warnings.warn(
                f"{what} was not finite after {whole.progress.step} steps, or in a layer before; the best state is "
                "written",
                stacklevel=1,
            )
