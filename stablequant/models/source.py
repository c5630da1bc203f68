"""Where a model's files are, and which of them loading reads: a folder, or a repository of the Hugging Face hub.

A hub id is resolved to one commit, and its files to the snapshot folder in the local cache, so everything after that
works on a folder, reads one state of the repository and needs no network. Only the files that loading reads are
downloaded: weights in one format, chosen in transformers' order, and the settings. Of the other files only the names
are known, because some of them change what a model means (folder_check.py).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..foundation.errors import InputError
from ..foundation.strict_json import JsonObject
from . import hub

HUB_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?")
CONFIG = "config.json"
POINTER = b"version https://git-lfs"
PLAN = "plan.json"
SINGLE_OR_INDEX = (  # in the order in which transformers looks for weights
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
SETTINGS = frozenset(
    {
        CONFIG,
        PLAN,
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.json",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "spiece.model",
        "merges.txt",
        "vocab.txt",
        "vocab.json",  # of every CTC tokenizer of the wav2vec 2.0 family
    }
)
TELLING = frozenset({"adapter_config.json", "alphabet.json"})  # what they say must be known offline too; not counted
LANGUAGE = re.compile(r"adapter\.(?P<language>[\w-]+)\.(safetensors|bin)")
FOREIGN = {  # weights that transformers 5 does not read, and what helps
    ".h5": "TensorFlow weights; load them in transformers 4 with `from_tf=True` and save the model again",
    ".msgpack": "Flax weights; load them in transformers 4 with `from_flax=True` and save the model again",
    ".nemo": "a NeMo archive; convert it to a Hugging Face folder first",
    ".onnx": "an ONNX graph; use the model that it was exported from",
    ".pt": "a checkpoint of its training toolkit; convert it to a Hugging Face folder first",
    ".ckpt": "a checkpoint of its training toolkit; convert it to a Hugging Face folder first",
    ".gguf": "GGUF weights; use the model that they were made from",
}


@dataclass(frozen=True)
class Source:
    """The files of one model: the `names` of all in its repository, and the `weights` and `settings` to load."""

    name: str  # as the user wrote it
    folder: Path
    names: frozenset[str]
    weights: tuple[Path, ...]
    settings: tuple[Path, ...]
    revision: str | None = None  # the commit, for a model of the hub

    def bytes_on_disk(self) -> int:
        """Bytes of the files that loading reads."""
        return sum(path.stat().st_size for path in (*self.weights, *self.settings))

    def languages(self) -> dict[str, str]:
        """The language adapters {language: file} next to the weights, safetensors before pickled ones."""
        matches = sorted((m for each in self.names if (m := LANGUAGE.fullmatch(each))), key=lambda m: m[0])
        return {match["language"]: match[0] for match in matches}


def locate(path: str, families: Collection[str], target_lang: str | None = None) -> Source:
    """Find the files of a model in a folder or, as owner/name or owner/name@revision, on the hub or in its cache.

    Raises InputError if there is no such model, if it cannot be reached, if its type is not one of `families` (before
    the weights are downloaded), or if files that loading reads are missing.
    """
    if Path(path).is_dir():
        _check_family(path, Path(path), families)
        return in_folder(path, Path(path))
    if Path(path).exists():
        raise InputError(f"{path}: a file; pass the folder of a Hugging Face model")
    match = HUB_ID.fullmatch(path)
    if match is None:
        raise InputError(
            f"{path}: no such folder; correct the path, or pass a hub id (owner/name or owner/name@revision)"
        )

    def wanted(folder: Path, names: frozenset[str]) -> list[str]:
        _check_family(path, folder, families)
        languages = [
            each for each in names if (found := LANGUAGE.fullmatch(each)) and found["language"] == target_lang
        ]
        config = read_json(folder / CONFIG)
        if target_lang and not languages and config.get("adapter_attn_dim") and not config.get("quantization_config"):
            raise InputError(f"{path}: no adapter.{target_lang}.safetensors; correct the language")
        return [*weight_files(path, names, folder), *sorted((SETTINGS | TELLING) & names), *sorted(languages)]

    folder, names, commit = hub.fetch(path, match["repository"], match["revision"], wanted)
    return _source(path, folder, names, commit)


def _check_family(name: str, folder: Path, families: Collection[str]) -> None:
    """InputError when config.json names a model type that is not supported."""
    kind = read_json(folder / CONFIG).get("model_type") if (folder / CONFIG).is_file() else None
    if kind is not None and kind not in families:
        raise InputError(f"{name}: model type {kind!r} is not supported; supported are {', '.join(families)}")


def in_folder(name: str, folder: Path) -> Source:
    """The files of a model in a local folder; InputError if some that loading reads are missing."""
    names = frozenset(each.name for each in folder.iterdir())
    if CONFIG not in names:
        raise InputError(f"{name}: no config.json here{_where_instead(folder, names)}")
    return _source(name, folder, names, None)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files that loading a model from a local folder reads."""
    return in_folder(str(folder), folder).bytes_on_disk()


def _source(name: str, folder: Path, names: frozenset[str], revision: str | None) -> Source:
    weights = weight_files(name, names, folder)
    settings = tuple(folder / each for each in sorted(SETTINGS & names))
    return Source(name, folder, names, tuple(folder / each for each in weights), settings, revision)


def weight_files(name: str, names: Collection[str], folder: Path) -> list[str]:
    """The names of the weight files that transformers loads from a folder that holds `names`."""
    explicit = read_json(folder / CONFIG).get("transformers_weights")
    candidates = (*(((explicit, explicit),) if isinstance(explicit, str) else ()), *SINGLE_OR_INDEX)
    for single, index in candidates:
        if single in names and not single.endswith(".index.json"):
            return [single]
        if index in names:
            return [index, *_shards(folder / index, names)]
    foreign = next(
        (f"{each} holds {FOREIGN[Path(each).suffix]}" for each in sorted(names) if Path(each).suffix in FOREIGN), None
    )
    raise InputError(
        f"{name}: no model.safetensors or pytorch_model.bin here; {foreign or 'copy the weights as well'}"
    )


def _shards(index: Path, names: Collection[str]) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise InputError(f"{index}: not an index of weights; copy the model again")
    for each in sorted(set(places.values())):
        if Path(each).name != each or each not in names:
            raise InputError(f"{index}: names {each!r}, which is not a file of this folder; copy the model again")
    return sorted(set(places.values()))


def read_json(path: Path) -> JsonObject:
    """The JSON object in a file of a model folder; InputError if there is none."""
    check_content(path)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(settings, allow_nan=False)  # no setting is infinite or not a number
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); copy the model again") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: not a JSON object; copy the model again")
    return settings


def check_content(path: Path) -> None:
    """InputError for what a failed copy leaves in place of a file."""
    if path.exists() and not path.is_file():  # reading one may never end
        raise InputError(f"{path}: a pipe or device, not a file; copy the model again")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to a missing file; copy the model with `cp -L`, which follows links")
    try:
        with path.open("rb") as file:
            head = file.read(len(POINTER))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from error
    if head == POINTER:
        raise InputError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in the repository")
    if head.startswith(codecs.BOM_UTF8):
        raise InputError(f"{path}: begins with a byte order mark; save it as UTF-8 without one")


def _where_instead(folder: Path, names: Collection[str]) -> str:
    """Advice for a folder without config.json."""
    if "adapter_config.json" in names:
        return ", but a PEFT adapter; merge it into its base model (`merge_and_unload`) and use the merged folder"
    nested = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    return f"; use {folder / nested[-1]}" if nested else "; pass the folder of a Hugging Face model"
