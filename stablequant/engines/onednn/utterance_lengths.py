"""The lengths of the utterances in a batched call.

The loop of transformers is between the code that batches utterances and the layers that keep them apart, and it passes
no arguments of ours on. So the lengths go around it: they are set for a block of code, in one thread, and read by the
forwards that transformers calls (wav2vec2_encoder.py, whisper_encoder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_lengths: ContextVar[tuple[int, ...] | None] = ContextVar("lengths", default=None)


@contextmanager
def packed(lengths: tuple[int, ...]) -> Iterator[None]:
    """Inside, a fused encoder takes its input (1, n, C) for utterances of these lengths, one after another."""
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)


def lengths() -> tuple[int, ...] | None:
    """Frames of each utterance in a batched call; None outside of one."""
    return _lengths.get()
