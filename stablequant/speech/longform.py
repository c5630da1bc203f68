"""A recording of any length in bounded memory: recognised in pieces of at most half a minute, joined if they overlap.

What a pause separates are stretches, each with symbols of its own: no symbol and no word goes over a pause. Pieces of
one stretch overlap (pauses.py), and their paths are joined on a frame in the inner half of the overlap, where neither
piece is near its end. The best frame is blank in both and far from any frame on which the two disagree: a symbol that
one has a frame earlier than the other is then neither lost nor written twice. Ties go to the middle, the quietest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..models.recognizer import BATCH_SECONDS, Recognizer
from ..models.tasks import ctc
from .pauses import Piece, pieces

ENOUGH = 10  # frames of agreement on either side; more do not make a join better


@dataclass(frozen=True)
class Stretch:
    """What is recognised between two pauses."""

    start: int  # its first sample in the recording
    symbols: np.ndarray  # (frames,) the best of each


def stretches(recognizer: Recognizer, blocks: Iterable[np.ndarray]) -> Iterator[Stretch]:
    """The stretches of a waveform at the recogniser's rate that comes in blocks (samples,), in order."""
    last = None
    for piece, symbols in _recognised(recognizer, pieces(blocks, recognizer.sampling_rate, recognizer.stride)):
        if last is not None and piece.shared:
            offset = (piece.start - last.start) // recognizer.stride
            last = Stretch(last.start, joined(last.symbols, symbols, offset, recognizer.blank))
        else:
            if last is not None:
                yield last
            last = Stretch(piece.start, symbols)
    if last is not None:
        yield last


def joined(left: np.ndarray, right: np.ndarray, offset: int, blank: int) -> np.ndarray:
    """The symbols of two pieces whose overlap begins at frame `offset` of the left and frame 0 of the right."""
    shared = min(len(left) - offset, len(right))
    at = _join(left[offset : offset + shared], right[:shared], blank)
    return np.concatenate([left[: offset + at], right[at:]])


def _join(left: np.ndarray, right: np.ndarray, blank: int) -> int:
    """The frame of an overlap, (frames,) of either piece, from which on the right one is taken."""
    frames = np.arange(len(left))
    differ = np.flatnonzero(left != right)
    nearest = np.abs(frames[:, None] - differ).min(1, initial=ENOUGH)
    off_middle = np.abs(frames - len(left) // 2)
    outer, silent = off_middle > len(left) / 4, (left == blank) & (right == blank)
    return int(np.lexsort([off_middle, -nearest, ~silent, outer])[0])


def _recognised(recognizer: Recognizer, found: Iterable[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
    """Each piece with its symbols, as many in a call as fit; those too short for a frame are left out."""
    waiting: list[Piece] = []
    for piece in (each for each in found if len(each.waveform) >= recognizer.min_samples):
        if sum(len(each.waveform) for each in [*waiting, piece]) > BATCH_SECONDS * recognizer.sampling_rate:
            yield from _answered(recognizer, waiting)
            waiting = []
        waiting.append(piece)
    yield from _answered(recognizer, waiting)


def _answered(recognizer: Recognizer, waiting: list[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
    answers = recognizer.logits_all([each.waveform for each in waiting])
    return zip(waiting, map(ctc.best, answers), strict=True)
