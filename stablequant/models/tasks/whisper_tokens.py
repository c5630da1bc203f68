"""The special tokens of Whisper: what a decoder starts with, what ends its text, and what it may not write.

They are those of generation_config.json; where a folder has none, or an old one, those of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from ...foundation.errors import InputError
from .base import Network

MULTILINGUAL = 51865  # symbols of the smallest vocabulary with languages, as in OpenAI's code


@dataclass(frozen=True)
class Tokens:
    """Numbers of tokens."""

    start: int
    end: int
    no_timestamps: int
    languages: dict[str, int]  # by code; empty for a model of English only
    tasks: dict[str, int]  # "transcribe" and "translate", likewise
    never: tuple[int, ...]  # that are not text
    not_first: tuple[int, ...]  # that would make the text empty
    longest: int  # steps, prompt included


def tokens(network: Network) -> Tokens:
    """The tokens of a model; InputError if it has no start token, as of another tokenizer."""
    settings, tokenizer = network.model.generation_config, network.tokenizer
    multilingual = _multilingual(getattr(settings, "is_multilingual", None), network.model.config)
    codes = sorted(set(TO_LANGUAGE_CODE.values())) if multilingual else []
    languages = {code: place for code in codes if (place := _number(tokenizer, f"<|{code}|>")) is not None}
    tasks = {task: _number(tokenizer, f"<|{task}|>") for task in ("transcribe", "translate")} if multilingual else {}
    found = {name: _number(tokenizer, f"<|{name}|>") for name in ("startoftranscript", "endoftext", "notimestamps")}
    if missing := [name for name, place in (found | tasks).items() if place is None]:
        raise InputError(f"the tokenizer has no <|{missing[0]}|>; copy the tokenizer that belongs to the model")
    return Tokens(
        start=int(found["startoftranscript"] or 0),
        end=int(found["endoftext"] or 0),
        no_timestamps=int(found["notimestamps"] or 0),
        languages=languages,
        tasks={task: int(place or 0) for task, place in tasks.items()},
        never=_within(getattr(settings, "suppress_tokens", None), network),
        not_first=_within(getattr(settings, "begin_suppress_tokens", None), network),
        longest=min(
            network.model.config.max_target_positions, settings.max_length or network.model.config.max_target_positions
        ),
    )


def language(name: str, known: Collection[str]) -> str:
    """The code of a language, written as a code or in English; InputError if it is not among the known codes.

    A model of English only knows none.
    """
    plain = _bare(name.lower())
    code = TO_LANGUAGE_CODE.get(plain, plain)
    if not known and code == "en":
        return code
    if not known:
        raise InputError("the model recognises English only; leave out --language")
    if code not in known:
        raise InputError(f"no language {name!r}; there are {', '.join(sorted(known))}")
    return code


def named_languages(config: Any, generation: Mapping[str, Any]) -> frozenset[str]:
    """The codes of the languages that a model has by its config.json and generation_config.json."""
    if not _multilingual(generation.get("is_multilingual"), config):
        return frozenset()
    named = generation.get("lang_to_id")
    return frozenset(map(_bare, named) if isinstance(named, Mapping) and named else TO_LANGUAGE_CODE.values())


def _multilingual(told: Any, config: Any) -> bool:
    """Whether a model has languages: as its settings tell, or by the size of its vocabulary."""
    return bool(config.vocab_size >= MULTILINGUAL if told is None else told)


def _bare(token: str) -> str:
    """The name in <|name|>."""
    return token.removeprefix("<|").removesuffix("|>")


def _within(numbers: Sequence[int] | None, network: Network) -> tuple[int, ...]:
    """Those of the numbers that the model has symbols for; -1 is none of them."""
    return tuple(each for each in numbers or () if 0 <= each < network.model.config.vocab_size)


def _number(tokenizer: Any, token: str) -> int | None:
    found = tokenizer.convert_tokens_to_ids(token)  # of an unknown token, the number of another one
    return int(found) if found is not None and tokenizer.convert_ids_to_tokens(found) == token else None
