"""The feature extractor and the tokenizer of a model, which its family and its task name where no file does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from transformers import AutoFeatureExtractor, AutoTokenizer

from ..foundation.errors import InputError, first_line
from ..foundation.strict_json import JsonObject
from .families.base import Family
from .source import CONFIG, Source, read_json
from .tasks.base import Task
from .tasks.ctc_vocabulary import listed

VOCABULARY = "vocab.json"
TABLES = frozenset({VOCABULARY, "tokenizer.json"})  # one of them is in every folder
TOKENIZER = "tokenizer_config.json"
EXTRACTOR = frozenset({"preprocessor_config.json", "processor_config.json"})
FASTEST = 1_000_000  # Hz: no recording is sampled faster


@dataclass(frozen=True)
class Languages:
    """The language that a tokenizer writes, and the others in the folder; None and () if there is only one."""

    chosen: str | None
    others: tuple[str, ...]


def load_processor(source: Source, family: Family, task: Task, target_lang: str | None) -> tuple[Any, Languages]:
    """The feature extractor and the tokenizer of a model, for `target_lang` if it has several languages.

    Raises InputError if a file is missing or unusable, or if there is no such language.
    """
    languages = _languages(source, target_lang)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source.folder, trust_remote_code=False)
        tokenizer = _tokenizer_class(source, task).from_pretrained(
            source.folder, trust_remote_code=False, **_options(source, languages)
        )
    except Exception as error:  # transformers checks little of a file; whatever it trips over is wrong in there
        absent = [
            *([] if TABLES & source.names else [VOCABULARY]),
            *(["preprocessor_config.json"] if not EXTRACTOR & source.names else []),
        ]
        why = f"no {' and no '.join(absent)}" if absent else first_line(error)
        raise InputError(
            f"{source.name}: no usable feature extractor and tokenizer in the folder ({why}); copy those files as well"
        ) from error
    _check_extractor(source, extractor, family.INPUT)
    _restore_delimiter(tokenizer)
    _keep_one_language(tokenizer)
    return getattr(transformers, task.PROCESSOR)(feature_extractor=extractor, tokenizer=tokenizer), languages


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
            f"{source.name}: {VOCABULARY} has {listed(sorted(vocabulary))}; choose a language with --target-lang"
        )
    if chosen not in vocabulary:
        raise InputError(f"{source.name}: no language {chosen!r}; there are {listed(sorted(vocabulary))}")
    return Languages(chosen, tuple(sorted(vocabulary.keys() - {chosen})))


def _refuse_shared_numbers(source: Source, vocabulary: JsonObject) -> None:
    """InputError if two symbols share a number: whichever the tokenizer keeps, the text would have the wrong one."""
    for symbols in (vocabulary, *(each for each in vocabulary.values() if isinstance(each, dict))):
        first: dict[int, str] = {}
        for symbol, number in symbols.items():
            if isinstance(number, int) and first.setdefault(number, symbol) != symbol:
                raise InputError(
                    f"{source.folder / VOCABULARY}: {first[number]!r} and {symbol!r} are both {number}; "
                    "every symbol needs its own number, as in training"
                )


def _options(source: Source, languages: Languages) -> dict[str, object]:
    """The arguments that the tokenizer's class needs."""
    options: dict[str, object] = {} if languages.chosen is None else {"target_lang": languages.chosen}
    settings = read_json(source.folder / TOKENIZER) if TOKENIZER in source.names else {}
    if settings.get("tokenizer_class") == "Wav2Vec2PhonemeCTCTokenizer":
        options["do_phonemize"] = False  # only text becomes phonemes by it, and it needs the phonemizer package
    return options


def _tokenizer_class(source: Source, task: Task) -> Any:
    """The task's where no file names one: transformers does not know which belongs to WavLM."""
    files = (source.folder / name for name in (TOKENIZER, CONFIG) if name in source.names)
    named = any(read_json(each).get("tokenizer_class") for each in files)
    return AutoTokenizer if named else getattr(transformers, task.TOKENIZER)


def _check_extractor(source: Source, extractor: Any, expected: str) -> None:
    rate = extractor.sampling_rate
    if type(rate) is not int or not 0 < rate < FASTEST:
        raise InputError(f"{source.name}: the feature extractor's sampling_rate is {rate!r}; set it to the rate in Hz")
    if expected not in extractor.model_input_names:
        raise InputError(
            f"{source.name}: {type(extractor).__name__} returns {extractor.model_input_names[0]}, but the model takes "
            f"{expected}; copy preprocessor_config.json from the model that it was fine-tuned from"
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
