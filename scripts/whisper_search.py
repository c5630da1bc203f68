"""Greedy and beam search in numpy, for runtimes that bring no loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Ahead = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tokens (beams, new), rows they go on from -> (beams, symbols)


def search(ahead: Ahead, prompt: Sequence[int], generation: Any, beams: int) -> list[int]:
    """The best hypothesis by log-probability per token, of as many finished ones as there are beams."""
    end = generation.eos_token_id
    texts: list[list[int]] = [[]]
    finished: list[tuple[float, list[int]]] = []
    scores = np.zeros(1)
    logits = ahead(np.array([prompt]), np.zeros(1, np.int64))
    for length in range(generation.max_length - len(prompt)):
        banned = [*generation.suppress_tokens, *(generation.begin_suppress_tokens if length == 0 else ())]
        logits[:, banned] = -np.inf
        totals = scores[:, None] + log_softmax(logits)
        rows, tokens, scores_of = best(totals, 2 * beams)
        stops = tokens == end
        finished += [(scores_of[place] / (length + 1), texts[rows[place]]) for place in np.flatnonzero(stops[:beams])]
        if len(finished) >= beams:
            break
        going = np.flatnonzero(~stops)[:beams]
        rows, tokens, scores = rows[going], tokens[going], scores_of[going]
        texts = [[*texts[row], int(token)] for row, token in zip(rows, tokens, strict=True)]
        logits = ahead(tokens[:, None], rows)
    else:
        finished += [(score / len(text), text) for score, text in zip(scores, texts, strict=True)]
    return max(finished, key=lambda each: each[0])[1]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def best(totals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of the largest, in order."""
    flat = totals.ravel()
    places = np.argpartition(-flat, count - 1)[:count]
    places = places[np.argsort(-flat[places], kind="stable")]
    return places // totals.shape[1], places % totals.shape[1], flat[places]
