"""Transcribing with CTC (Graves et al. 2006): a symbol or the blank for each frame; repeats merged, blanks dropped.

Two models are compared by the total variation distance between their posteriors, over the symbols that the float
model writes: 1 / symbols * sum_t 1/2 sum_v |p_float(t, v) - p(t, v)|. The sum is the number of frames whose symbol
would differ if both were drawn from their posteriors under the best coupling, and a written symbol changes only where
a frame does: so it is, as a word error rate, in % of what is written. (Over frames it would shrink with the blanks
between symbols, and a threshold would mean something else for every vocabulary.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...foundation.errors import InputError
from .base import Answer, Part, total_variation

AUTO_CLASS = "AutoModelForCTC"
HEAD = "ForCTC"
UNIT = "frames that change for 100 symbols (total variation)"


def answer(model: Any, tokenizer: Any, inputs: Mapping[str, Tensor]) -> Answer:
    """Logits (frames, vocabulary) of one recording."""
    found: Tensor = model(**inputs).logits[0]
    symbols = found.argmax(-1)
    return Answer(found, max(1, _written(symbols, tokenizer.pad_token_id)), decode(symbols.numpy(), tokenizer))


def logits(model: Any, inputs: Mapping[str, Tensor], answer: Answer) -> Tensor:
    """Logits of the same frames: nothing is to be forced."""
    found: Tensor = model(**inputs).logits[0]
    return found


def divergence(answer: Answer, logits: Tensor) -> Part:
    """Frames that change, and the symbols that are written."""
    return total_variation(answer.logits, logits), float(answer.written)


def text(model: Any, tokenizer: Any, inputs: Mapping[str, Tensor]) -> str:
    """Greedy decoding."""
    return decode(best(model(**inputs).logits[0]), tokenizer)


def missing_head(parameter: str) -> bool:
    """The layer that gives the symbols."""
    return parameter.startswith("lm_head")


def _written(symbols: Tensor, blank: int) -> int:
    """Symbols that greedy decoding writes for the best symbols of the frames."""
    begins = torch.cat([torch.tensor([True]), symbols[1:] != symbols[:-1]])
    return int((begins & (symbols != blank)).sum())


def best(logits: Tensor) -> np.ndarray:
    """The best symbol of each frame of logits (frames, vocabulary).

    Raises InputError where they are NaN or infinite: their argmax is a symbol too, but says nothing.
    """
    if not logits.isfinite().all():
        raise InputError(
            "the model's output is NaN or infinite; its weights or the samples of the recording are damaged or far "
            "out of range"
        )
    symbols: np.ndarray = logits.argmax(-1).numpy()
    return symbols


def decode(symbols: np.ndarray, tokenizer: Any) -> str:
    """What the best symbols of frames (frames,) say: repeats merged, blanks dropped, one space between words."""
    decoded: str = tokenizer.batch_decode(symbols[None])[0]
    return " ".join(decoded.split())
