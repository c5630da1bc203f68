"""Writing tokens with a decoder (Whisper): each follows from the recording and the tokens before it.

Two models are compared on the tokens that the float model writes, by their posteriors after the same tokens:
1 / tokens * sum_t 1/2 sum_v |p_float(t, v) - p(t, v)|. The sum is the number of tokens that would differ if both were
drawn under the best coupling, each after what the float model wrote: an error is counted where it is made, and not
again in what follows from it.

Decoding (decoding.py) writes what transformers' `generate` writes, but costs less for each token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...foundation.errors import InputError
from . import decoding, whisper_alignment, whisper_tokens
from .base import NOT_FINITE, Answer, Decoding, Forced, Inputs, Network, Part, Spoken, Word, total_variation
from .decoding import Begun
from .repetition import compression_ratio, loops
from .whisper_tokens import Tokens

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
SAMPLES = 5  # of which the most likely is taken that does not repeat itself
SEED = 0

AUTO_CLASS = "AutoModelForSpeechSeq2Seq"
HEAD = "ForConditionalGeneration"
UNIT = "changed tokens per 100 output tokens"
TAG = "seq2seq"
TOKENIZER = "WhisperTokenizer"
PROCESSOR = "WhisperProcessor"


def refuse(decoding: Decoding, config: Any, generation: Mapping[str, Any]) -> None:
    """InputError for a language or task that the model does not have."""
    _refuse(decoding, whisper_tokens.named_languages(config, generation))


def check(name: str, network: Network) -> Iterator[str]:
    """InputError for a tokenizer or options that the model has no tokens for."""
    try:
        _refuse(network.decoding, whisper_tokens.tokens(network).languages)
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
    found = whisper_tokens.tokens(network)
    begun = _begun(network, _encoded(network.model, inputs), found)
    [written] = decoding.greedy(begun, found)
    prompt = begun.prompts
    return Forced(torch.cat([prompt, torch.tensor([written], dtype=torch.int64)], 1), prompt.shape[1])


def repeats(layer: str) -> bool:
    """The decoder's layers, and its table of tokens."""
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


def learnable(network: Network, seconds: float, text: str) -> bool:
    """The prompt, the text and its end fit the positions of the decoder."""
    prompt = 4  # at most: start, language, task, no timestamps
    return bool(text.strip()) and prompt + len(_ids(network, text)) <= whisper_tokens.tokens(network).longest


def transcript_loss(network: Network, inputs: Inputs, forced: Forced | None, text: str) -> tuple[Tensor, float]:
    """Cross-entropy of the tokens of a transcript and of the end."""
    if forced is None:
        raise ValueError("a decoder needs a prompt")
    prompt, written = forced.ids[:, : forced.prompt], _ids(network, text)
    ids = torch.cat([prompt, torch.tensor([written], dtype=torch.int64)], 1)
    found = logits(network.model, inputs, Forced(ids, forced.prompt))
    wanted = torch.tensor([*written, network.tokenizer.eos_token_id])
    return F.cross_entropy(found, wanted, reduction="sum"), float(len(wanted))


def _ids(network: Network, text: str) -> list[int]:
    found: list[int] = network.tokenizer(" " + text.strip(), add_special_tokens=False).input_ids
    return found


@dataclass(frozen=True)
class Written:
    """The tokens of one piece."""

    prompt: Tensor  # (1, n)
    tokens: tuple[int, ...]
    network: Network
    inputs: Inputs
    temperature: float = 0.0

    @property
    def text(self) -> str:
        """Without special tokens."""
        return _text(self.network, self.tokens)

    @torch.inference_mode()
    def words(self) -> list[Word]:
        """From the attention of some heads of the decoder to the encoder's steps."""
        return list(whisper_alignment.words(self.network, self.inputs, self.prompt, self.tokens))


def recognise(network: Network, inputs: Sequence[Inputs]) -> list[Spoken]:
    """The tokens of each piece: greedily of all pieces in one batch, with beams of one after another."""
    if not inputs:
        return []
    together = {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}
    states, found, width = _encoded(network.model, together), whisper_tokens.tokens(network), network.decoding.beams
    if width == 1:
        begun = _begun(network, states, found)
        answers = list(zip(begun.prompts.split(1), decoding.greedy(begun, found), strict=True))
    else:
        searches = (_begun(network, each, found) for each in states.split(1))
        answers = [(each.prompts, decoding.beam_search(each, found, width)) for each in searches]
    written = [
        Written(prompt, tuple(text), network, each) for (prompt, text), each in zip(answers, inputs, strict=True)
    ]
    return [
        _again(each, of_piece, found) if network.decoding.fallback and loops(each.text) else each
        for each, of_piece in zip(written, states.split(1), strict=True)
    ]


def _again(written: Written, states: Tensor, found: Tokens) -> Written:
    """The text of a piece, whose first one repeats itself, sampled at the lowest temperature where it does not.

    As openai/whisper does (`temperature`, `best_of` and `compression_ratio_threshold` of transcribe.py); but samples
    that repeat themselves, which are the likeliest ones, are not taken while there are others, and where all do, it is
    the one that does so least. A piece has its own seed, so its text does not depend on what it is with.
    """
    tried, repeated = [], lambda tokens: loops(_text(written.network, tokens))
    for temperature in TEMPERATURES:
        begun, generator = _begun(written.network, states, found), torch.Generator().manual_seed(SEED)
        for text in decoding.sample(begun, found, temperature, SAMPLES, generator, repeated):
            tried.append(replace(written, tokens=tuple(text), temperature=temperature))
            if not loops(tried[-1].text):
                return tried[-1]
    return min(tried, key=lambda each: compression_ratio(each.text))


def joined(left: Spoken, right: Spoken, seconds: float) -> Spoken:
    """Pieces of a model with a window do not overlap."""
    raise NotImplementedError


def unwritable(words: Iterable[str], tokenizer: Any) -> list[str]:
    """None: tokens of bytes write everything."""
    return []


def missing_head(parameter: str) -> bool:
    """None: the output projection is the table of tokens."""
    return False


def _refuse(wanted: Decoding, languages: Collection[str]) -> None:
    if wanted.language is not None:
        whisper_tokens.language(wanted.language, languages)
    if wanted.translate and not languages:
        raise InputError("the model recognises English only; leave out --task")


def _encoded(model: Any, inputs: Inputs) -> Tensor:
    """The encoder's states (pieces, steps, channels); InputError where they are not finite."""
    states: Tensor = model.get_encoder()(**inputs).last_hidden_state
    if not all(each.isfinite().all() for each in (states, *inputs.values())):  # integers would hide what inputs are
        raise InputError(NOT_FINITE)
    return states


def _begun(network: Network, states: Tensor, found: Tokens) -> Begun:
    """The decoder on states (pieces, steps, channels) with the tokens that each piece starts with.

    Where it has to detect the language, it has read the first of them, and goes on from there.
    """
    running, read = decoding.decoder(network, states), 0
    start = torch.full((len(states), 1), found.start)
    columns = [start]
    if found.languages:
        settings = network.model.generation_config
        chosen = network.decoding.language or getattr(settings, "language", None)
        if chosen is None:
            spoken, read = _languages(running.step(start), found), 1
        else:
            spoken = torch.full_like(start, found.languages[whisper_tokens.language(chosen, found.languages)])
        translate = network.decoding.translate or getattr(settings, "task", None) == "translate"
        task = found.tasks["translate" if translate else "transcribe"]
        columns += [spoken, torch.full_like(start, task)]
    return Begun(running, torch.cat([*columns, torch.full_like(start, found.no_timestamps)], 1), read)


def _languages(logits: Tensor, found: Tokens) -> Tensor:
    """The most likely language of each piece, (pieces, 1), from the logits of the first step."""
    numbers = torch.tensor(sorted(found.languages.values()))
    return numbers[logits[:, numbers].argmax(1)][:, None]


def _text(network: Network, ids: Sequence[int]) -> str:
    return " ".join(network.tokenizer.decode(list(ids), skip_special_tokens=True).split())
