"""The feature extractor and the tokenizer of a model, checked to agree with its head on every symbol.

The CTC blank, the word delimiter and the size of the vocabulary are each stored in several files. The tokenizer
decides, because it writes the text; if another file contradicts it, a remark says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import AutoFeatureExtractor, AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2Processor

from ..foundation.errors import InputError
from .source import CONFIG, Source, read_json

VOCABULARY = "vocab.json"
TOKENIZER = "tokenizer_config.json"
EXTRACTOR = frozenset({"preprocessor_config.json", "processor_config.json"})
FASTEST = 1_000_000  # Hz: no recording is sampled faster
SHOWN = 5  # symbols in a message


@dataclass(frozen=True)
class Languages:
    """The language that a tokenizer writes, and the others in the folder; None and () if there is only one."""

    chosen: str | None
    others: tuple[str, ...]


def load_processor(source: Source, target_lang: str | None) -> tuple[Wav2Vec2Processor, Languages]:
    """The feature extractor and the tokenizer of a model, for `target_lang` if it has several languages.

    Raises InputError if a file is missing or unusable, or if there is no such language.
    """
    languages = _languages(source, target_lang)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source.folder, trust_remote_code=False)
        tokenizer = _tokenizer_class(source).from_pretrained(
            source.folder, trust_remote_code=False, **_options(source, languages)
        )
    except Exception as error:  # transformers checks little of a file; whatever it trips over is wrong in there
        absent = [
            *({VOCABULARY} - source.names),
            *(["preprocessor_config.json"] if not EXTRACTOR & source.names else []),
        ]
        why = f"no {' and no '.join(absent)}" if absent else first_line(error)
        raise InputError(
            f"{source.name}: no usable feature extractor and tokenizer in the folder ({why}); copy those files as well"
        ) from error
    _check_extractor(source, extractor)
    _restore_delimiter(tokenizer)
    _keep_one_language(tokenizer)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer), languages


def _languages(source: Source, target_lang: str | None) -> Languages:
    """Of the nested vocabulary of a model with language adapters (MMS)."""
    vocabulary = read_json(source.folder / VOCABULARY) if VOCABULARY in source.names else {}
    _refuse_shared_numbers(source, vocabulary)
    if not vocabulary or not all(isinstance(each, dict) for each in vocabulary.values()):
        return Languages(None, ())
    settings = read_json(source.folder / TOKENIZER) if TOKENIZER in source.names else {}
    chosen = target_lang or settings.get("target_lang")
    if chosen is None:
        raise InputError(
            f"{source.name}: {VOCABULARY} has {_listed(sorted(vocabulary))}; choose a language with --target-lang"
        )
    if chosen not in vocabulary:
        raise InputError(f"{source.name}: no language {chosen!r}; there are {_listed(sorted(vocabulary))}")
    return Languages(chosen, tuple(sorted(vocabulary.keys() - {chosen})))


def _refuse_shared_numbers(source: Source, vocabulary: dict[str, Any]) -> None:
    """InputError if two symbols share a number: whichever the tokenizer keeps, the text would have the wrong one."""
    for symbols in (vocabulary, *(each for each in vocabulary.values() if isinstance(each, dict))):
        first: dict[int, str] = {}
        for symbol, number in symbols.items():
            if isinstance(number, int) and first.setdefault(number, symbol) != symbol:
                raise InputError(
                    f"{source.folder / VOCABULARY}: {first[number]!r} and {symbol!r} are both {number}; "
                    "every symbol needs its own number, as in training"
                )


def _options(source: Source, languages: Languages) -> dict[str, Any]:
    """The arguments that the tokenizer's class needs."""
    options: dict[str, Any] = {} if languages.chosen is None else {"target_lang": languages.chosen}
    settings = read_json(source.folder / TOKENIZER) if TOKENIZER in source.names else {}
    if settings.get("tokenizer_class") == "Wav2Vec2PhonemeCTCTokenizer":
        options["do_phonemize"] = False  # only text becomes phonemes by it, and it needs the phonemizer package
    return options


def _tokenizer_class(source: Source) -> Any:
    """The family's where no file names one: transformers does not know which belongs to WavLM."""
    files = (source.folder / name for name in (TOKENIZER, CONFIG) if name in source.names)
    return AutoTokenizer if any(read_json(each).get("tokenizer_class") for each in files) else Wav2Vec2CTCTokenizer


def _check_extractor(source: Source, extractor: Any) -> None:
    rate = extractor.sampling_rate
    if type(rate) is not int or not 0 < rate < FASTEST:
        raise InputError(f"{source.name}: the feature extractor's sampling_rate is {rate!r}; set it to the rate in Hz")
    if "input_values" not in extractor.model_input_names:
        raise InputError(
            f"{source.name}: {type(extractor).__name__} returns {extractor.model_input_names[0]}, but the model takes "
            "waveforms; copy preprocessor_config.json from the model that it was fine-tuned from"
        )


def _restore_delimiter(tokenizer: Any) -> None:
    """Use the word delimiter of the folder's file; transformers 5.20 to 5.23 reload every delimiter as "|"."""
    saved = tokenizer.init_kwargs.get("model_specific_special_tokens") or {}
    if (delimiter := saved.get("word_delimiter_token")) is not None:
        tokenizer._word_delimiter_token = str(delimiter)  # its setter stores it where its getter does not look
        tokenizer.init_kwargs["word_delimiter_token"] = str(delimiter)


def _keep_one_language(tokenizer: Any) -> None:
    """Make the vocabulary flat, so that the files written for a model of one language do not list the others."""
    if getattr(tokenizer, "target_lang", None) is not None:
        tokenizer.vocab = dict(tokenizer.encoder)
        tokenizer.target_lang = tokenizer.init_kwargs["target_lang"] = None


def check_symbols(name: str, tokenizer: Any, symbols: int) -> Iterator[str]:
    """Check a tokenizer against a head with so many symbols; yields remarks on mismatches that can be tolerated.

    Raises InputError if they cannot belong together: the blank or symbols of the vocabulary are outside the head.
    """
    blank, vocabulary = tokenizer.pad_token_id, tokenizer.get_vocab()
    if blank is None or not 0 <= blank < symbols:
        raise InputError(
            f"{name}: the tokenizer's pad_token {tokenizer.pad_token!r}, which is the CTC blank, has number "
            f"{blank}, but the head writes 0 to {symbols - 1}; set pad_token in {TOKENIZER} to the blank that the "
            "model was trained with"
        )
    special = {*tokenizer.all_special_tokens, tokenizer.init_kwargs.get("word_delimiter_token")}
    outside = sorted(symbol for symbol, number in vocabulary.items() if number >= symbols and symbol not in special)
    if outside:
        raise InputError(
            f"{name}: {_listed(outside)} in the vocabulary are outside the head, which has {symbols} symbols; copy "
            "the tokenizer that the model was trained with, or use --target-lang if it has several languages"
        )
    if unnamed := set(range(symbols)) - set(vocabulary.values()):
        yield (
            f"{name}: the head writes {symbols} symbols, but the tokenizer names only {symbols - len(unnamed)} of "
            f"them; the text may contain {tokenizer.unk_token}"
        )


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
