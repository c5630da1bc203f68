"""Transcribing with CTC (Graves et al. 2006): a symbol or the blank for each frame; repeats merged, blanks dropped.

Two models are compared by the total variation distance between their posteriors, over the symbols that the float
model writes: 1 / symbols * sum_t 1/2 sum_v |p_float(t, v) - p(t, v)|. The sum is the number of frames whose symbol
would differ if both were drawn from their posteriors under the best coupling, and a written symbol changes only where
a frame does: so it is, as a word error rate, in % of what is written. (Over frames it would shrink with the blanks
between symbols, and a threshold would mean something else for every vocabulary.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...foundation.errors import InputError
from .base import PLAIN, Answer, Decoding, Forced, Inputs, Network, Part, Word, total_variation
from .ctc_vocabulary import check, unwritable
from .ctc_words import alphabet, best, decode, words

__all__ = ["check", "unwritable"]

AUTO_CLASS = "AutoModelForCTC"
HEAD = "ForCTC"
UNIT = "changed frames per 100 output symbols"
TAG = "ctc"
TOKENIZER = "Wav2Vec2CTCTokenizer"
PROCESSOR = "Wav2Vec2Processor"
ENOUGH = 10  # frames of agreement on either side; more do not make a join better


def refuse(decoding: Decoding, config: Any, generation: Mapping[str, Any]) -> None:
    """InputError for all choices: greedy decoding has none."""
    if replace(decoding, fallback=False) != PLAIN:
        raise InputError(
            "--language, --task and --beam-size are for models like Whisper, not for CTC models; leave them out"
        )


def forced(network: Network, inputs: Inputs) -> None:
    """There is no decoder."""


def repeats(layer: str) -> bool:
    """No layer does."""
    return False


def logits(model: Any, inputs: Inputs, forced: Forced | None) -> Tensor:
    """Logits (frames, vocabulary) of one recording; never padded, since padding changes group-norm models."""
    found: Tensor = model(**inputs).logits[0]
    return found


def answer(network: Network, logits: Tensor, forced: Forced | None) -> Answer:
    """The symbols that greedy decoding writes."""
    symbols, tokenizer = logits.argmax(-1), network.tokenizer
    return Answer(logits, max(1, _written(symbols, tokenizer.pad_token_id)), decode(symbols.numpy(), tokenizer))


def divergence(answer: Answer, logits: Tensor) -> Part:
    """Frames that change, and the symbols that are written."""
    return total_variation(answer.logits, logits), float(answer.written)


def learnable(network: Network, seconds: float, text: str) -> bool:
    """It needs symbols, and a frame for each, and one for the blank between two that are equal."""
    symbols = network.tokenizer(text).input_ids
    equal = sum(one == other for one, other in pairwise(symbols))
    frames = int(seconds / network.step_seconds)
    return bool(symbols) and len(symbols) + equal < frames


def transcript_loss(network: Network, inputs: Inputs, forced: Forced | None, text: str) -> tuple[Tensor, float]:
    """CTC's."""
    symbols = torch.tensor([network.tokenizer(text).input_ids])
    found = logits(network.model, inputs, None).log_softmax(-1)
    loss = F.ctc_loss(
        found[:, None],
        symbols,
        torch.tensor([len(found)]),
        torch.tensor([symbols.shape[1]]),
        blank=network.tokenizer.pad_token_id,
        reduction="sum",
        zero_infinity=True,
    )
    return loss, float(symbols.shape[1])


@dataclass(frozen=True)
class Symbols:
    """The best symbol of each frame, (frames,)."""

    symbols: np.ndarray
    network: Network
    temperature: float = 0.0

    @property
    def text(self) -> str:
        """Greedy decoding."""
        return decode(self.symbols, self.network.tokenizer)

    def words(self) -> Iterator[Word]:
        """From the first frame of each to the one after its last."""
        step = self.network.step_seconds
        for span in words(self.symbols, alphabet(self.network.tokenizer)):
            yield Word(span.word, span.first * step, span.end * step, span.joined)


def recognise(network: Network, inputs: Sequence[Inputs]) -> list[Symbols]:
    """The best symbols of the frames of each piece."""
    if network.batched is None or not inputs:
        found = [logits(network.model, each, None) for each in inputs]
    else:
        found = network.batched([tensor[0] for each in inputs for tensor in each.values()])
    return [Symbols(best(each), network) for each in found]


def joined(left: Symbols, right: Symbols, seconds: float) -> Symbols:
    """Two pieces joined on a frame in the inner half of their overlap, where neither is near its end.

    The best frame is blank in both and far from any frame on which the two disagree: a symbol that one has a frame
    earlier than the other is then neither lost nor written twice. Ties go to the middle, the quietest.
    """
    offset = round(seconds / left.network.step_seconds)
    shared = min(len(left.symbols) - offset, len(right.symbols))
    part = left.symbols[offset : offset + shared], right.symbols[:shared]
    at = _join(*part, left.network.tokenizer.pad_token_id)
    return replace(left, symbols=np.concatenate([left.symbols[: offset + at], right.symbols[at:]]))


def missing_head(parameter: str) -> bool:
    """The layer that gives the symbols."""
    return parameter.startswith("lm_head")


def _join(left: np.ndarray, right: np.ndarray, blank: int) -> int:
    """The frame of an overlap, (frames,) of either piece, from which on the right one is taken."""
    frames = np.arange(len(left))
    differ = np.flatnonzero(left != right)
    nearest = np.abs(frames[:, None] - differ).min(1, initial=ENOUGH)
    off_middle = np.abs(frames - len(left) // 2)
    outer, silent = off_middle > len(left) / 4, (left == blank) & (right == blank)
    return int(np.lexsort([off_middle, -nearest, ~silent, outer])[0])


def _written(symbols: Tensor, blank: int) -> int:
    """Symbols that greedy decoding writes for the best symbols of the frames."""
    begins = torch.cat([torch.tensor([True]), symbols[1:] != symbols[:-1]])
    return int((begins & (symbols != blank)).sum())
