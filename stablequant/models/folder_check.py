"""The other files in a model folder: those that change what the model is, and those that must not be opened.

A folder can contain more than weights: an adapter (LoRA) to be added to them, a language model to decode with,
language adapters, code to run. None of these is ignored silently: `check` refuses files that would change the words
but are not applied here, and `remarks` names the others. Links are followed, because the cache of the hub consists of
them, but only to files: reading a pipe or a device may never end.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..foundation.errors import InputError
from .source import Source, check_content, read_json

LANGUAGE_MODEL = frozenset({"language_model", "alphabet.json"})  # of pyctcdecode, as transformers saves it
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
NESTED, FLAT = "processor_config.json", "preprocessor_config.json"


def check(source: Source) -> None:
    """InputError if a folder contains a pipe or device, an adapter that is not merged, or needs custom code."""
    for path in sorted(source.folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a pipe or device, not a file; copy the model again")
    for path in source.weights:
        check_content(path)
    if "adapter_config.json" in source.names:
        raise InputError(
            f"{source.name}: contains a PEFT adapter (adapter_config.json) that is not merged into the weights; merge "
            "it (`PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(DIR)`), or remove the adapter's "
            "files to use the base model"
        )
    for path in source.settings:
        if path.name.endswith("config.json") and read_json(path).get("auto_map"):
            raise InputError(
                f"{path}: needs custom code (auto_map), which stablequant never runs; use a model whose code is in "
                "transformers"
            )


def remarks(source: Source) -> Iterator[str]:
    """A sentence for everything in the folder that is not applied, and for contradicting settings."""
    if model := _language_model(source):
        yield (
            f"{source.name}: has a language model ({model}), which is not used: decoding is greedy, and the quantized "
            "model does not include it"
        )
    if other := _second_opinion(source):
        yield f"{source.name}: {FLAT} and {NESTED} differ in {other}; {NESTED} is used"


def _language_model(source: Source) -> str | None:
    found = sorted(source.names & LANGUAGE_MODEL) or sorted(
        each for each in source.names if each.endswith((".arpa", ".arpa.gz", ".kenlm"))
    )
    if found:
        return found[-1]
    settings = ((path.name, read_json(path)) for path in source.settings if path.name in PROCESSORS)
    return next((name for name, each in settings if str(each.get("processor_class")).endswith("WithLM")), None)


def _second_opinion(source: Source) -> str | None:
    """The names of the settings on which the two files of the feature extractor disagree."""
    if not {NESTED, FLAT} <= source.names:
        return None
    nested = read_json(source.folder / NESTED).get("feature_extractor")
    flat = read_json(source.folder / FLAT)
    differing = sorted(key for key in flat if isinstance(nested, dict) and key in nested and nested[key] != flat[key])
    return " and ".join(each for each in differing if each != "processor_class") or None
