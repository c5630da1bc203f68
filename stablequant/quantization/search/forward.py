"""Forward passes of recordings: the same steps for the float model, for trials, and for rounded layers.

A decoder writes one token after another, and a changed model would write others: so every model follows the tokens
that the float model writes, which are found once for each recording (Forced). Other models have nothing to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...models.recognizer import Recognizer
from ...models.tasks.base import Forced, Inputs
from ..numerics.reproducible import Reproducible


@dataclass(frozen=True)
class CalibrationUtterance:
    """A calibration recording: how to read it, and its transcript where there is one."""

    key: str
    read: Callable[[], np.ndarray]  # (samples,) float32 at the model's rate
    text: str | None
    samples: int = 0  # of the waveform, where that is known


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
    _forced: dict[str, Forced | None] = field(default_factory=dict)

    def of(self, recording: CalibrationUtterance) -> Passage:
        """The inputs of a recording, and what is to be followed; the model has to be the float one, unchanged."""
        waveform = recording.read()
        inputs = self.recognizer.inputs(waveform)
        if recording.key not in self._forced:
            with Reproducible():
                self._forced[recording.key] = self.recognizer.forced(inputs)
        window = self.recognizer.geometry.window
        return Passage(inputs, self._forced[recording.key], window or len(waveform))
