"""When the words of Whisper are spoken: by the attention of its alignment heads (Radford et al., openai/whisper).

Some heads of the decoder attend to what is being said. Their attention after each token, normalised over tokens and
smoothed over time, is a matrix through which the best monotonic path is found (dynamic time warping); a token begins
where the path reaches its row.

A comma before a pause attends to the pause and to what follows it, as the next word does. On one path the comma takes
the frames of that word, which then begins too late, or has no time at all (so in OpenAI's code and in transformers).
Nobody speaks punctuation, so here it has no row. Where several words begin in one step nevertheless, they share the
time until the next one begins.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from ...foundation.errors import InputError
from .base import Inputs, Network, Word
from .unspaced import cuts

SMOOTH = 7  # steps of the median


def words(network: Network, inputs: Inputs, prompt: Tensor, tokens: Sequence[int]) -> Iterator[Word]:
    """The words of tokens that follow a prompt (1, n), each behind the one before."""
    text, lengths = _text(network.tokenizer, tokens), _lengths(network.tokenizer, tokens)
    if not text:
        return
    units = _units(text, lengths)
    ids = torch.cat([prompt, torch.tensor([list(tokens)])], 1)
    weights = _attention(network.model, inputs, ids)[:, prompt.shape[1] - 1 :, : _steps(inputs)]
    weights = (weights - weights.mean(-2, keepdims=True)) / np.maximum(weights.std(-2, keepdims=True), 1e-9)
    path = median_filter(weights, (1, 1, SMOOTH)).mean(0)
    begins = [unit.first for unit in units] + [len(tokens)]
    silent = set(_punctuation(text, lengths)).difference(begins)
    rows = [n for n in range(len(path)) if n not in silent]
    steps = _first_steps(-path[rows])[[rows.index(n) for n in begins]]
    times = _spread(steps, path.shape[1]) * network.step_seconds
    for unit, (start, end) in zip(units, pairwise(times.tolist()), strict=True):
        yield Word(unit.text, start, end, unit.joined)


class _Unit(NamedTuple):
    """A word, or a part of a text without spaces that begins with a token."""

    text: str
    first: int  # its first token
    joined: bool  # to the one before


def _units(text: str, lengths: Sequence[int]) -> list[_Unit]:
    """The words of a text, those without spaces in parts of whole tokens."""
    first = [next(n for n, length in enumerate(lengths) if length > place) for place in range(len(text))]
    at = sorted(
        {0, len(text)}
        | {place + 1 for place, character in enumerate(text) if character == " "}
        | {place for place in cuts(text) if first[place] > first[place - 1]}
    )
    return [_Unit(text[a:b].rstrip(), first[a], a > 0 and text[a - 1] != " ") for a, b in pairwise(at)]


def _punctuation(text: str, lengths: Sequence[int]) -> Iterator[int]:
    """The tokens that write nothing but punctuation."""
    written = ""
    for n, (before, after) in enumerate(pairwise([0, *lengths])):
        written = text[before:after].strip() or written  # a token that adds nothing goes on with a character
        if all(unicodedata.category(each).startswith("P") for each in written):
            yield n


def _lengths(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    """The characters of the text of the tokens up to each one."""
    return [len(_text(tokenizer, tokens[: n + 1])) for n in range(len(tokens))]


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """With one space between words; what is not whole yet is one character."""
    return " ".join(tokenizer.decode(list(tokens), skip_special_tokens=True).split())


def _steps(inputs: Inputs) -> int:
    """Steps of the encoder until the padding of the recording begins, 1 at least."""
    frames = next(iter(inputs.values()))[0]
    spoken = (frames != frames[:, -1:]).any(0).nonzero()
    return max(1, -(-(int(spoken[-1]) + 1) // 2)) if len(spoken) else 1


def _attention(model: Any, inputs: Inputs, ids: Tensor) -> np.ndarray:
    """Attention of the alignment heads, (heads, ids, steps), with ids (1, n) forced."""
    heads = getattr(model.generation_config, "alignment_heads", None)
    if not heads:
        raise InputError(
            "generation_config.json has no alignment_heads, which times of words need; copy it from the model"
        )
    layers = model.base_model.decoder.layers
    if any(layer >= len(layers) or head >= layers[layer].encoder_attn.num_heads for layer, head in heads):
        raise InputError(
            "alignment_heads in generation_config.json are those of a model with more layers or heads; times of words "
            "need this model's own"
        )
    seen: dict[str, Tensor] = {}
    blocks = {layer: layers[layer].encoder_attn for layer, _ in heads}
    with ExitStack() as stack:
        for layer, block in blocks.items():
            for name in ("q_proj", "k_proj"):
                hook = getattr(block, name).register_forward_hook(_keeping(seen, f"{layer}.{name}"))
                stack.callback(hook.remove)
        model(**inputs, decoder_input_ids=ids, use_cache=False)
    found = []
    for layer, head in heads:
        size = blocks[layer].head_dim
        q, k = (seen[f"{layer}.{name}"][:, head * size : (head + 1) * size] for name in ("q_proj", "k_proj"))
        found.append((q @ k.T * size**-0.5).softmax(-1))
    return torch.stack(found).numpy()


def _keeping(seen: dict[str, Tensor], key: str) -> Callable[[object, object, Tensor], None]:
    """A hook that leaves a module's output in a dictionary."""
    return lambda _module, _inputs, output: seen.__setitem__(key, output[0])


def _spread(steps: np.ndarray, end: int) -> np.ndarray:
    """Steps in order, of which equal ones are spread evenly up to the next, and the last ones up to the end."""
    different = np.flatnonzero(np.diff(steps, prepend=-1))
    return np.interp(np.arange(len(steps)), [*different, len(steps)], [*steps[different], end])


def _first_steps(cost: np.ndarray) -> np.ndarray:
    """The first column of each row on the cheapest path through a matrix (rows, columns), by dynamic time warping."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(rows):
        above = np.minimum(total[row, :-1], total[row, 1:])  # from the row before: the column before, or the same
        for column in range(columns):
            total[row + 1, column + 1] = cost[row, column] + min(above[column], total[row + 1, column])
    firsts, row, column = np.zeros(rows, int), rows, columns
    while row > 0 and column > 0:
        firsts[row - 1] = column - 1
        steps = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        best = int(np.argmin(steps))
        row, column = row - (best < 2), column - (best != 1)
    return firsts
