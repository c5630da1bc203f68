"""Writing tokens: greedy and beam search, and sampling, on the decoder of transformers, or on that of an engine.

Both searches write what `generate` of transformers 5 writes (greedy search, and beam search with a length penalty of
1), but without its work around each step, which takes longer than the products of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ...foundation.errors import InputError
from .base import NOT_FINITE, Decoder, Network
from .whisper_tokens import Tokens

CHECKED = 50  # tokens


def decoder(network: Network, states: Tensor) -> Decoder:
    """The decoder on encoder states (pieces, steps, C)."""
    return ModelDecoder(network.model, states) if network.decoder is None else network.decoder(states)


class ModelDecoder:
    """A model of transformers, step by step with its own cache."""

    def __init__(self, model: Any, states: Tensor) -> None:
        self._model, self._states, self._cache = model, states, None

    def step(self, ids: Tensor) -> Tensor:
        """Logits of what follows."""
        encoded = BaseModelOutput(last_hidden_state=self._states)
        output = self._model(
            encoder_outputs=encoded, decoder_input_ids=ids, past_key_values=self._cache, use_cache=True
        )
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows."""
        self._states = self._states[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows)


class Begun(NamedTuple):
    """A decoder at the start of the texts of some pieces."""

    running: Decoder
    prompts: Tensor  # (pieces, n)
    read: int  # tokens of the prompts that it has read already


def greedy(begun: Begun, found: Tokens) -> list[list[int]]:
    """The most likely token at every step after the prompts, until the end or the longest text."""
    running, prompts = begun.running, begun.prompts
    written: list[list[int]] = [[] for _ in prompts]
    alive, ids = list(range(len(prompts))), prompts[:, begun.read :]
    for length in range(prompts.shape[1], found.longest):
        logits = _allowed(_finite(running.step(ids)), found, first=length == prompts.shape[1])
        best = logits.argmax(-1).tolist()
        left = [row for row, token in enumerate(best) if token != found.end]
        for row in left:
            written[alive[row]].append(best[row])
        if not left:
            break
        if len(left) < len(alive):
            running.keep(torch.tensor(left))
            alive = [alive[row] for row in left]
        ids = torch.tensor([[best[row]] for row in left])
    return written


class Beam(NamedTuple):
    """Tokens after the prompt, and their log probability; of a finished one, for each token."""

    score: float
    tokens: tuple[int, ...]


def beam_search(begun: Begun, found: Tokens, width: int) -> list[int]:
    """The best of `width` texts of one piece after its prompt."""
    running, room = begun.running, found.longest - begun.prompts.shape[1]
    beams, finished, ids = [Beam(0.0, ())], [], begun.prompts[:, begun.read :]
    for length in range(1, room + 1):
        probable = _allowed(_finite(running.step(ids)).log_softmax(-1), found, first=length == 1)
        total = probable + torch.tensor([each.score for each in beams])[:, None]
        scores, places = total.flatten().topk(min(2 * width, total.numel()))
        rows, tokens = places // total.shape[1], places % total.shape[1]
        ends = (tokens == found.end) | (length == room)
        finished += [
            Beam(float(scores[n]) / length, (*beams[rows[n]].tokens, int(tokens[n])))
            for n in range(min(width, len(scores)))
            if ends[n] and scores[n] > -torch.inf
        ]
        finished = sorted(finished, key=lambda each: -each.score)[:width]
        going = (~ends).nonzero().flatten()[:width]
        beams = [Beam(float(scores[n]), (*beams[rows[n]].tokens, int(tokens[n]))) for n in going]
        if not beams or (len(finished) == width and beams[0].score / length <= finished[-1].score):
            break
        running.keep(rows[going])
        ids = tokens[going][:, None]
    return [token for token in finished[0].tokens if token != found.end] if finished else []


def sample(
    begun: Begun,
    found: Tokens,
    temperature: float,
    count: int,
    generator: torch.Generator,
    hopeless: Callable[[Sequence[int]], bool] = lambda _tokens: False,
) -> list[list[int]]:
    """`count` texts of one piece that are drawn at a temperature, the most likely (for each token) first.

    A text that is `hopeless` when it has CHECKED tokens, or a multiple of that, is not continued.
    """
    running, prompts = begun.running, begun.prompts
    texts, alive, ids = [Beam(0.0, ()) for _ in range(count)], list(range(count)), prompts[:, begun.read :]
    for length in range(prompts.shape[1], found.longest):
        logits = _allowed(_finite(running.step(ids)), found, first=length == prompts.shape[1])
        if length == prompts.shape[1]:
            running.keep(torch.zeros(count, dtype=torch.int64))
            logits = logits.expand(count, -1)
        drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        likely = logits.log_softmax(-1).gather(1, drawn)[:, 0].tolist()
        for row, token, score in zip(alive, drawn[:, 0].tolist(), likely, strict=True):
            texts[row] = Beam(texts[row].score + score, (*texts[row].tokens, token))
        left = [
            n
            for n, row in enumerate(alive)
            if drawn[n] != found.end and not (len(texts[row].tokens) % CHECKED == 0 and hopeless(texts[row].tokens))
        ]
        if not left:
            break
        if len(left) < len(alive):
            running.keep(torch.tensor(left))
            alive = [alive[n] for n in left]
        ids = drawn[left]
    texts.sort(key=lambda each: -each.score / max(1, len(each.tokens)))
    return [[token for token in each.tokens if token != found.end] for each in texts]


def _finite(logits: Tensor) -> Tensor:
    """The logits; InputError where they are NaN or infinite, as of damaged weights."""
    if not logits.isfinite().all():
        raise InputError(NOT_FINITE)
    return logits


def _allowed(logits: Tensor, found: Tokens, *, first: bool) -> Tensor:
    """The logits or log probabilities (rows, symbols) with those that may not be written at minus infinity."""
    logits[:, list(found.never)] = -torch.inf
    if first:
        logits[:, list(found.not_first)] = -torch.inf
    return logits
