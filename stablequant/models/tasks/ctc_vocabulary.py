"""The symbols of a CTC model: its tokenizer, held against its head, and the words that can be written with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from unicodedata import normalize

from ...foundation.errors import InputError
from .base import Network

SHOWN = 5  # symbols in a message


def check(name: str, network: Network) -> Iterator[str]:
    """Remarks on mismatches between tokenizer and head that can be tolerated; InputError for the others."""
    yield from _symbols(name, network.tokenizer, network.model.config.vocab_size)
    yield from _blanks(name, network.model, network.tokenizer)


def _symbols(name: str, tokenizer: Any, symbols: int) -> Iterator[str]:
    """Check a tokenizer against a head with so many symbols; yields remarks on mismatches that can be tolerated.

    Raises InputError if they cannot belong together: the blank or symbols of the vocabulary are outside the head.
    """
    blank, vocabulary = tokenizer.pad_token_id, tokenizer.get_vocab()
    if blank is None or not 0 <= blank < symbols:
        raise InputError(
            f"{name}: the tokenizer's pad_token {tokenizer.pad_token!r}, which is the CTC blank, has number "
            f"{blank}, but the head writes 0 to {symbols - 1}; set pad_token in tokenizer_config.json to the blank "
            "that the model was trained with"
        )
    special = {*tokenizer.all_special_tokens, tokenizer.init_kwargs.get("word_delimiter_token")}
    outside = sorted(symbol for symbol, number in vocabulary.items() if number >= symbols and symbol not in special)
    if outside:
        raise InputError(
            f"{name}: {listed(outside)} in the vocabulary are outside the head, which has {symbols} symbols; copy "
            "the tokenizer that the model was trained with, or use --target-lang if it has several languages"
        )
    if unnamed := set(range(symbols)) - set(vocabulary.values()):
        yield (
            f"{name}: the head writes {symbols} symbols, but the tokenizer names only {symbols - len(unnamed)} of "
            f"them; the text may contain {tokenizer.unk_token}"
        )


def _blanks(path: str, model: Any, tokenizer: Any) -> Iterator[str]:
    """Use one blank everywhere: the tokenizer's, because it writes the text."""
    blank, configured = tokenizer.pad_token_id, model.config.pad_token_id
    if configured != blank:
        symbol = tokenizer.convert_ids_to_tokens(blank)
        other = tokenizer.convert_ids_to_tokens(configured) if isinstance(configured, int) else None
        yield (
            f"{path}: the tokenizer's blank is {blank} ({symbol!r}), which is used, but pad_token_id in config.json "
            f"is {configured} ({other!r}); correct the one that is wrong"
        )
        model.config.pad_token_id = blank


def unwritable(words: Iterable[str], tokenizer: Any) -> list[str]:
    """The words that cannot be spelled with the symbols of a tokenizer's vocabulary."""
    special = set(tokenizer.all_special_tokens)
    lower = bool(tokenizer.init_kwargs.get("do_lower_case"))  # of what it decodes
    kept = (symbol.lower() if lower else symbol for symbol in tokenizer.get_vocab() if symbol not in special)
    symbols = {normalize("NFC", symbol.strip()) for symbol in kept} - {""}
    longest = max(map(len, symbols), default=0)
    return [word for word in words if not _spelled(normalize("NFC", word), symbols, longest)]


def _spelled(word: str, symbols: set[str], longest: int) -> bool:
    ends = {0}  # where a sequence of symbols can end
    for stop in range(1, len(word) + 1):
        if any(start in ends and word[start:stop] in symbols for start in range(max(0, stop - longest), stop)):
            ends.add(stop)
    return len(word) in ends


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
