"""Writing tokens with a decoder (Whisper): each follows from the recording and the tokens before it.

Two models are compared on the tokens that the float model writes, by their posteriors after the same tokens:
1 / tokens * sum_t 1/2 sum_v |p_float(t, v) - p(t, v)|. The sum is the number of tokens that would differ if both were
drawn under the best coupling, each after what the float model wrote: an error is counted where it is made, and not
again in what follows from it.

Greedy decoding is a loop of our own, which writes what transformers' `generate` writes; it costs less for each token
and runs on the decoder of an engine. Beams are transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ...foundation.errors import InputError
from . import whisper_tokens
from .base import Answer, Forced, Inputs, Network, Part, Spoken, Word, total_variation
from .whisper_tokens import Tokens

AUTO_CLASS = "AutoModelForSpeechSeq2Seq"
HEAD = "ForConditionalGeneration"
UNIT = "tokens that change for 100 (total variation)"
TAG = "seq2seq"
TOKENIZER = "WhisperTokenizer"
PROCESSOR = "WhisperProcessor"


def check(name: str, network: Network) -> Iterator[str]:
    """InputError for a tokenizer or options that the model has no tokens for."""
    decoding = network.decoding
    try:
        found = whisper_tokens.tokens(network)
        if decoding.language is not None:
            whisper_tokens.language(decoding.language, found)
        if decoding.translate and not found.tasks:
            raise InputError("the model recognises English only; leave out --task")
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if len(network.tokenizer) > network.model.config.vocab_size:
        raise InputError(
            f"{name}: the tokenizer has {len(network.tokenizer)} tokens, the model "
            f"{network.model.config.vocab_size}; copy the tokenizer that belongs to the model"
        )
    yield from ()


def forced(network: Network, inputs: Inputs) -> Forced:
    """The prompt and the tokens that the model writes."""
    states = _encoded(network.model, inputs)
    prompt = _prompts(network, states, whisper_tokens.tokens(network))
    [written] = _greedy(network, states, prompt)
    return Forced(torch.cat([prompt, torch.tensor([written], dtype=torch.int64)], 1), prompt.shape[1])


def repeats(layer: str) -> bool:
    """The decoder's, its table of tokens among them."""
    return ".decoder." in layer


def logits(model: Any, inputs: Inputs, forced: Forced | None) -> Tensor:
    """Logits (steps, tokens): of the first token, of what follows each one, and so of the end."""
    start = torch.tensor([[model.config.decoder_start_token_id]])
    ids, first = (start, 1) if forced is None else (forced.ids, forced.prompt)
    found: Tensor = model(**inputs, decoder_input_ids=ids, use_cache=False).logits[0, first - 1 :]
    return found


def answer(network: Network, logits: Tensor, forced: Forced | None) -> Answer:
    """The tokens that were written, and the end."""
    written = [] if forced is None else forced.ids[0, forced.prompt :].tolist()
    return Answer(logits, len(logits), _text(network, written))


def divergence(answer: Answer, logits: Tensor) -> Part:
    """Tokens that change, and all tokens."""
    return total_variation(answer.logits, logits), float(answer.written)


@dataclass(frozen=True)
class Written:
    """The tokens of one piece."""

    tokens: tuple[int, ...]
    network: Network
    inputs: Inputs

    @property
    def text(self) -> str:
        """Without special tokens."""
        return _text(self.network, self.tokens)

    def words(self) -> Iterator[Word]:
        """From the attention of some heads of the decoder (transformers' `return_token_timestamps`)."""
        raise InputError("times of words are for CTC models; leave out --words")


def recognise(network: Network, inputs: Sequence[Inputs]) -> list[Spoken]:
    """The tokens of each piece, all pieces in one batch."""
    if not inputs:
        return []
    together = {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}
    if network.decoding.beams > 1:
        found = _beams(network, together)
    else:
        states = _encoded(network.model, together)
        found = _greedy(network, states, _prompts(network, states, whisper_tokens.tokens(network)))
    return [Written(tuple(each), network, piece) for each, piece in zip(found, inputs, strict=True)]


def joined(left: Spoken, right: Spoken, seconds: float) -> Spoken:
    """Pieces of a model with a window do not overlap."""
    raise NotImplementedError


def unwritable(words: Iterable[str], tokenizer: Any) -> list[str]:
    """None: tokens of bytes write everything."""
    return []


def missing_head(parameter: str) -> bool:
    """None: the output projection is the table of tokens."""
    return False


def _encoded(model: Any, inputs: Inputs) -> Tensor:
    """The encoder's states (pieces, steps, channels); InputError where they are not finite."""
    states: Tensor = model.get_encoder()(**inputs).last_hidden_state
    if not states.isfinite().all():
        raise InputError(
            "the model's output is NaN or infinite; its weights or the samples of the recording are damaged or far "
            "out of range"
        )
    return states


def _prompts(network: Network, states: Tensor, found: Tokens) -> Tensor:
    """The tokens that each piece starts with, (pieces, n)."""
    start = torch.full((len(states), 1), found.start)
    columns = [start]
    if found.languages:
        chosen = network.decoding.language
        if chosen is None:
            spoken = _languages(_decoder(network, states).step(start), found)
        else:
            spoken = torch.full_like(start, found.languages[whisper_tokens.language(chosen, found)])
        task = found.tasks["translate" if network.decoding.translate else "transcribe"]
        columns += [spoken, torch.full_like(start, task)]
    return torch.cat([*columns, torch.full_like(start, found.no_timestamps)], 1)


def _languages(logits: Tensor, found: Tokens) -> Tensor:
    """The most likely language of each piece, (pieces, 1), from the logits of the first step."""
    numbers = torch.tensor(sorted(found.languages.values()))
    return numbers[logits[:, numbers].argmax(1)][:, None]


def _greedy(network: Network, states: Tensor, prompts: Tensor) -> list[list[int]]:
    """The most likely token at every step, until the end or the longest text."""
    found = whisper_tokens.tokens(network)
    never, not_first = torch.tensor(found.never, dtype=torch.int64), torch.tensor(found.not_first, dtype=torch.int64)
    decoder = _decoder(network, states)
    written: list[list[int]] = [[] for _ in states]
    alive, ids = list(range(len(states))), prompts
    for length in range(prompts.shape[1], found.longest):
        logits = decoder.step(ids)
        logits[:, never] = -torch.inf
        if length == prompts.shape[1]:
            logits[:, not_first] = -torch.inf
        best = logits.argmax(-1).tolist()
        left = [row for row, token in enumerate(best) if token != found.end]
        for row in left:
            written[alive[row]].append(best[row])
        if not left:
            break
        if len(left) < len(alive):
            decoder.keep(torch.tensor(left))
            alive = [alive[row] for row in left]
        ids = torch.tensor([[best[row]] for row in left])
    return written


def _decoder(network: Network, states: Tensor) -> Any:
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
        """Go on with some pieces."""
        self._states = self._states[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows)


def _beams(network: Network, inputs: Inputs) -> list[list[int]]:
    """Beam search of transformers."""
    decoding, found = network.decoding, whisper_tokens.tokens(network)
    options: dict[str, Any] = {"num_beams": decoding.beams, "return_timestamps": False}
    if found.languages:
        options["task"] = "translate" if decoding.translate else "transcribe"
        options["language"] = decoding.language and whisper_tokens.language(decoding.language, found)
    ids = network.model.generate(**inputs, **options)
    return [[token for token in row if token != found.end] for row in ids.tolist()]


def _text(network: Network, ids: Sequence[int]) -> str:
    return " ".join(network.tokenizer.decode(list(ids), skip_special_tokens=True).split())
