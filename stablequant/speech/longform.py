"""A recording of any length in bounded memory: recognised in pieces of at most half a minute, joined if they overlap.

What a pause separates are stretches, each recognised by itself: no symbol and no word goes over a pause. Pieces of one
stretch overlap (pauses.py) and are joined by the model's task; those of a model that takes windows of one length do
not, and are stretches of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..models.recognizer import Recognizer
from ..models.tasks.base import Spoken
from .pauses import Piece, pieces


@dataclass(frozen=True)
class Stretch:
    """What is recognised between two pauses."""

    start: int  # its first sample in the recording
    end: int  # the sample after its last
    spoken: Spoken


def texts(recognizer: Recognizer, waveforms: Sequence[np.ndarray]) -> list[tuple[str, float]]:
    """The text of each of several waveforms that fit one call; one that is longer than a window is cut at pauses.

    With each the highest temperature at which a part of it was decoded again (Spoken.temperature).
    """
    window = recognizer.geometry.window
    if window is not None and any(len(each) > window for each in waveforms):
        found = ([stretch.spoken for stretch in stretches(recognizer, [each])] for each in waveforms)
        return [
            (" ".join(filter(None, (each.text for each in parts))), max((p.temperature for p in parts), default=0.0))
            for parts in found
        ]
    return [(each.text, each.temperature) for each in recognizer.recognise(waveforms)]


def stretches(recognizer: Recognizer, blocks: Iterable[np.ndarray]) -> Iterator[Stretch]:
    """The stretches of a waveform at the recogniser's rate that comes in blocks (samples,), in order."""
    geometry, rate, last = recognizer.geometry, recognizer.sampling_rate, None
    found = pieces(blocks, rate, geometry.stride, recognizer.longest, overlap=geometry.window is None)
    for piece, spoken in _recognised(recognizer, found):
        end = piece.start + len(piece.waveform)
        if last is not None and piece.shared:
            seconds = (piece.start - last.start) / rate
            last = Stretch(last.start, end, recognizer.task.joined(last.spoken, spoken, seconds))
        else:
            if last is not None:
                yield last
            last = Stretch(piece.start, end, spoken)
    if last is not None:
        yield last


def _recognised(recognizer: Recognizer, found: Iterable[Piece]) -> Iterator[tuple[Piece, Spoken]]:
    """Each piece with what is spoken, as many in a call as fit; those too short for a step are left out."""
    waiting: list[Piece] = []
    for piece in (each for each in found if len(each.waveform) >= recognizer.min_samples):
        if not recognizer.fits([len(each.waveform) for each in [*waiting, piece]]):
            yield from _answered(recognizer, waiting)
            waiting = []
        waiting.append(piece)
    yield from _answered(recognizer, waiting)


def _answered(recognizer: Recognizer, waiting: list[Piece]) -> Iterator[tuple[Piece, Spoken]]:
    return zip(waiting, recognizer.recognise([each.waveform for each in waiting]), strict=True)
