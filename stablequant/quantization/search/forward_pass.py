"""Forward passes of recordings: the same steps for the float model, for trials, and for rounded layers.

A decoder writes one token after another, and a changed model would write others: so every model follows the tokens
that the float model writes, which are found once for each recording (Forced). Other models have nothing to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ...models.recognizer import Recognizer
from ...models.tasks.base import Forced, Inputs
from ..numerics.reproducible import Reproducible
from .resume import ResumeState


@dataclass(frozen=True)
class CalibrationUtterance:
    """A calibration recording: how to read it, and its transcript where there is one."""

    key: str
    read: Callable[[], np.ndarray]  # (samples,) float32 at the model's rate
    text: str | None
    samples: int = 0  # of the waveform, where that is known
    sha256: str = ""  # of the waveform, where that is known


@dataclass(frozen=True)
class Passage:
    """A recording as every model takes it."""

    inputs: Inputs
    forced: Forced | None
    samples: int  # that the inputs stand for


@dataclass(frozen=True)
class Passages:
    """The recordings of a float model."""

    recognizer: Recognizer
    resume: ResumeState | None = None  # keeps the tokens for a resumed run: writing them costs as much as a pass
    _forced: dict[str, Forced | None] = field(default_factory=dict)

    def of(self, recording: CalibrationUtterance) -> Passage:
        """The inputs of a recording, and what is to be followed; the model has to be the float one, unchanged."""
        waveform = recording.read()
        inputs = self.recognizer.inputs(waveform)
        if recording.key not in self._forced:
            self._forced[recording.key] = self._known(recording.key) or self._found(recording.key, inputs)
        window = self.recognizer.geometry.window
        return Passage(inputs, self._forced[recording.key], window or len(waveform))

    def _known(self, key: str) -> Forced | None:
        """What an earlier run found."""
        stored = None if self.resume is None else self.resume.tokens(key)
        return stored and Forced(torch.tensor([stored[0]]), stored[1])

    def _found(self, key: str, inputs: Inputs) -> Forced | None:
        with Reproducible():
            found = self.recognizer.forced(inputs)
        if found is not None and self.resume is not None:
            self.resume.add_tokens(key, found.ids[0].tolist(), found.prompt)
        return found
