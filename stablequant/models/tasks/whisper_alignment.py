"""When the words of Whisper are spoken: by the attention of its alignment heads (Radford et al., openai/whisper).

Some heads of the decoder attend to what is being said. Their attention after each token, normalised over tokens and
smoothed over time, is a matrix through which the best monotonic path is found (dynamic time warping); a token begins
where the path reaches its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from ...foundation.errors import InputError
from .base import Inputs, Network, Word

SMOOTH = 7  # steps of the median


def words(network: Network, inputs: Inputs, prompt: Tensor, tokens: Sequence[int]) -> Iterator[Word]:
    """The words of tokens that follow a prompt (1, n); joined by spaces they are the text."""
    begins = _begins(network.tokenizer, tokens)
    if not begins:
        return
    ids = torch.cat([prompt, torch.tensor([list(tokens)])], 1)
    weights = _attention(network.model, inputs, ids)[:, prompt.shape[1] - 1 :, : _steps(inputs)]
    weights = (weights - weights.mean(-2, keepdims=True)) / np.maximum(weights.std(-2, keepdims=True), 1e-9)
    path = median_filter(weights, (1, 1, SMOOTH)).mean(0)
    starts = _first_steps(-path) * network.step_seconds
    text = _text(network.tokenizer, tokens).split()
    for word, first, after in zip(text, begins, [*begins[1:], len(tokens)], strict=True):
        yield Word(word, float(starts[first]), float(starts[after]))


def _begins(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    """The first token of each word: where the text of the tokens so far has one more."""
    counts = [len(_text(tokenizer, tokens[: n + 1]).split()) for n in range(len(tokens))]
    return [next(n for n, count in enumerate(counts) if count > word) for word in range(counts[-1] if counts else 0)]


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text


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
