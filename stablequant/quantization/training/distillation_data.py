"""What a student learns from: recordings, and what the float model answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...models.tasks.base import Answer, Forced
from ..search.forward_pass import CalibrationUtterance, Passage, Passages

PAUSE = 0.4  # seconds between recordings that share a window
KEPT = 1 << 30  # bytes of answers that stay in memory; others are computed again


@dataclass
class Lessons:
    """Recordings and a float model that answers them."""

    passages: Passages
    recordings: Sequence[CalibrationUtterance]
    seed: int
    _answers: dict[str, Answer] = field(default_factory=dict)
    _bytes: int = 0

    def batch(self, step: int, size: int) -> list[CalibrationUtterance]:
        """The recordings of a step: each once in an order of its own, then all again in another."""
        count = len(self.recordings)
        return [self.recordings[self._order(n // count)[n % count]] for n in range(step * size, (step + 1) * size)]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.recordings))

    @torch.no_grad()
    def passage(self, recording: CalibrationUtterance) -> Passage:
        """The recording as both models take it, in tensors that may have gradients."""
        found = self.passages.of(recording)
        inputs = {name: _ordinary(each) for name, each in found.inputs.items()}
        forced = None if found.forced is None else Forced(_ordinary(found.forced.ids), found.forced.prompt)
        return Passage(inputs, forced, found.samples)

    def answer(self, recording: CalibrationUtterance, passage: Passage) -> Answer:
        """The float model's answer."""
        if recording.key in self._answers:
            return self._answers[recording.key]
        found = self.passages.recognizer.answer(passage.inputs, passage.forced)
        kept = Answer(_ordinary(found.logits), found.written, found.text)
        if self._bytes + kept.logits.nbytes <= KEPT:
            self._bytes += kept.logits.nbytes
            self._answers[recording.key] = kept
        return kept


def joined(
    recordings: Sequence[CalibrationUtterance],
    window: int,
    rate: int,
    fits: Callable[[str], bool] = lambda _text: True,
) -> list[CalibrationUtterance]:
    """Recordings that share windows of so many samples, with texts that fit one, each followed by one of its own.

    A network that takes a window whatever a recording's length would spend most of its time on silence; but it will be
    used with one recording in a window too.
    """
    pause = int(PAUSE * rate)
    found: list[list[int]] = [[]]
    used, text = 0, ""
    for place, recording in enumerate(recordings):
        if found[-1] and (used + recording.samples > window or not fits(f"{text} {recording.text or ''}")):
            found.append([])
            used, text = 0, ""
        found[-1].append(place)
        text = f"{text} {recording.text or ''}"
        used += recording.samples + pause
    return list(_with_alone(recordings, found, pause))


def _with_alone(
    recordings: Sequence[CalibrationUtterance], windows: list[list[int]], pause: int
) -> Iterator[CalibrationUtterance]:
    for places in windows:
        alone = recordings[places[0]]
        yield alone
        if len(places) > 1:
            yield _together([recordings[place] for place in places], pause)


def _together(parts: list[CalibrationUtterance], pause: int) -> CalibrationUtterance:
    def read() -> np.ndarray:
        silence = np.zeros(pause, np.float32)
        return np.concatenate([piece for part in parts for piece in (part.read(), silence)][:-1])

    texts = [part.text for part in parts]
    text = None if any(each is None for each in texts) else " ".join(str(each) for each in texts)
    return CalibrationUtterance("\n".join(part.key for part in parts), read, text)


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor of inference mode as one that may take part in a gradient."""
    return torch.from_numpy(tensor.numpy().copy())
