"""Words and their times from a CTC model: the best symbol of each frame, (frames,).

A symbol is spoken where it first comes; repeats and blanks after it belong to it or to nothing. transformers'
own `output_word_offsets` splits at the word delimiter only, so it is wrong for vocabularies whose symbols are words.
Here a word is, as the vocabulary has it, what stands between two delimiters, or what starts with a symbol that starts
with a space. Where there is neither (phonemes, Chinese characters) the tokenizer's text decides: each symbol where it
writes spaces between them, else all of them. So the words always are those of the text. A word of a
script that has no spaces is given in parts, each of whole symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ...foundation.errors import InputError
from .base import NOT_FINITE
from .unspaced import cuts


@dataclass(frozen=True)
class Span:
    """A word by its frames."""

    word: str
    first: int
    end: int  # the frame after its last
    joined: bool = False  # to the one before, without a space


@dataclass(frozen=True)
class Alphabet:
    """How the symbols of a tokenizer form words."""

    tokenizer: Any
    blank: int
    delimiter: int | None
    initial: frozenset[int]  # symbols that begin a word


def alphabet(tokenizer: Any) -> Alphabet:
    """The alphabet of a tokenizer; a delimiter that it added beyond its vocabulary is ignored: no model writes it."""
    symbols = {symbol: place for symbol, place in tokenizer.get_vocab().items() if place < tokenizer.vocab_size}
    delimiter = symbols.get(tokenizer.init_kwargs.get("word_delimiter_token"))  # its property complains when unset
    spaced = frozenset(place for symbol, place in symbols.items() if symbol.startswith(" ") and symbol.strip())
    initial = spaced or (frozenset() if delimiter is not None else frozenset(symbols.values()))
    return Alphabet(tokenizer, tokenizer.pad_token_id, delimiter, initial)


def words(symbols: np.ndarray, letters: Alphabet) -> list[Span]:
    """The words of symbols (frames,), in order, as they are in its text."""
    found = (Span(decode(symbols[a:b], letters.tokenizer).strip(), a, b) for a, b in _spans(symbols, letters))
    spans = [each for each in found if each.word]
    spoken = decode(symbols, letters.tokenizer).split()
    whole = spans if [each.word for each in spans] == spoken else list(_joined(spoken, spans))
    return [part for each in whole for part in _parts(each, symbols, letters)]


def _parts(span: Span, symbols: np.ndarray, letters: Alphabet) -> Iterator[Span]:
    """A word cut where its script allows that, if its symbols spell it."""
    places = cuts(span.word)
    runs = list(_runs(symbols[span.first : span.end], letters.blank, span.first)) if places else []
    texts = [decode(symbols[a:b], letters.tokenizer) for a, b in runs]
    if not places or "".join(texts) != span.word:
        yield span
        return
    begins = [n for n in range(len(runs)) if n == 0 or len("".join(texts[:n])) in places]
    for n, after in pairwise([*begins, len(runs)]):
        yield Span("".join(texts[n:after]), runs[n][0], runs[after - 1][1], n > 0 or span.joined)


def _runs(symbols: np.ndarray, blank: int, start: int) -> Iterator[tuple[int, int]]:
    """(first frame, frame after the last) of each symbol that is not blank; the first of the frames is `start`."""
    changes = [0, *(np.flatnonzero(np.diff(symbols)) + 1).tolist(), len(symbols)]
    yield from ((start + a, start + b) for a, b in pairwise(changes) if symbols[a] != blank)


def _joined(spoken: Iterable[str], spans: list[Span]) -> Iterator[Span]:
    """Each word of a text with its spans: some tokenizers write no spaces, or fewer, between symbols.

    A word that the spans do not spell takes all remaining ones, which is the best estimate of its times.
    """
    left = list(spans)
    for word in spoken if spans else ():
        taken = next((n for n in range(1, len(left) + 1) if "".join(s.word for s in left[:n]) == word), len(left))
        part, left = left[:taken], left[taken:] or left[-1:]
        yield Span(word, part[0].first, part[-1].end)


def _spans(symbols: np.ndarray, letters: Alphabet) -> Iterator[tuple[int, int]]:
    """(first frame, frame after the last) of each word."""
    changes = [0, *(np.flatnonzero(np.diff(symbols)) + 1).tolist(), len(symbols)]
    begin = end = 0  # of the word at hand; nothing yet
    for first, after in pairwise(changes):
        symbol = symbols[first] if first < after else letters.blank  # no frames have no symbol
        if symbol == letters.blank:
            continue
        if (symbol == letters.delimiter or symbol in letters.initial) and begin < end:
            yield begin, end
            begin = end
        if symbol != letters.delimiter:
            begin, end = (begin, after) if begin < end else (first, after)
    if begin < end:
        yield begin, end


def best(logits: Tensor) -> np.ndarray:
    """The best symbol of each frame of logits (frames, vocabulary).

    Raises InputError where they are NaN or infinite: their argmax is a symbol too, but says nothing.
    """
    if not logits.isfinite().all():
        raise InputError(NOT_FINITE)
    symbols: np.ndarray = logits.argmax(-1).numpy()
    return symbols


def decode(symbols: np.ndarray, tokenizer: Any) -> str:
    """What the best symbols of frames (frames,) say: repeats merged, blanks dropped, one space between words."""
    decoded: str = tokenizer.batch_decode(symbols[None])[0]
    return " ".join(decoded.split())
