"""The fields of options, and what is common to those of all commands.

The metadata of a field says how it is shown (`help`, `metavar`, `argument`, `flag`) and which values it may have
(`one_of`, `least`, `above`, `most`, `path`). An invalid value is an InputError when the object is made, so options
need no further checks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, field, fields
from difflib import get_close_matches
from typing import Any

from ..errors import InputError

TASKS = ("transcribe", "translate")
MOST_BEAMS = 64


def flag(name: str) -> str:
    """How a field is written on the command line."""
    return "--" + name.replace("_", "-")


def allowed(of: Field[Any]) -> Mapping[str, Any]:
    """{what is typed: value} of a field with few values; empty for one with many."""
    given: Any = of.metadata.get("one_of", ())
    names = given() if callable(given) else given
    return names if isinstance(names, Mapping) else dict(zip(names, names, strict=True))


def option_field(help: str, default: Any = MISSING, **shown: Any) -> Any:
    return field(default=default, metadata={"help": help, **shown})


def path_field(help: str, default: Any = MISSING, **shown: Any) -> Any:
    return option_field(help, default, path=True, **shown)


def model_field() -> Any:
    return path_field("", argument=True)


def data_field() -> Any:
    seen = "Manifest or folder of recordings (check it with `sfm-quant data`); - reads a manifest from stdin."
    return path_field(seen, metavar="DATA")


def max_samples_field() -> Any:
    return option_field("Use only N utterances, drawn with the seed.", None, metavar="N", least=1)


def seed_field() -> Any:
    return option_field("Seed for the subset and the confidence intervals.", 0, least=0)


def skip_bad_field() -> Any:
    return option_field("Skip unusable entries and recordings; each is reported, and the JSON has the count.", False)


def target_lang_field() -> Any:
    return option_field("Language of a model with language adapters (MMS), e.g. eng.", None, metavar="LANG")


def language_field() -> Any:
    return option_field(
        "Language that is spoken, for a multilingual Whisper.  [default: detected]", None, metavar="LANG"
    )


def task_field() -> Any:
    return option_field(
        "For a multilingual Whisper. transcribe: in the spoken language; translate: into English.",
        "transcribe",
        one_of=TASKS,
    )


def beam_size_field() -> Any:
    return option_field("Beams of a model that generates text.", 1, metavar="N", least=1, most=MOST_BEAMS)


def no_fallback_field() -> Any:
    return option_field(
        "Do not decode again. By default, where the text of a model that generates text repeats itself, that piece is "
        "decoded again by sampling, with a fixed seed, at rising temperatures.",
        False,
    )


def limit_field(help: str, metavar: str, **bounds: Any) -> Any:
    return option_field(help, None, metavar=metavar, **bounds)


class Options:
    """What the options of all commands have in common; the fields are those of a dataclass below."""

    def __post_init__(self) -> None:
        declared: Any = self
        for each in fields(declared):
            if problem := _problem(each, getattr(self, each.name)):
                raise InputError(f"{flag(each.name)} is {getattr(self, each.name)}; {problem}")

    def refuse_ignored(self, given: Collection[str]) -> None:
        """InputError if one of the fields in `given` would have no effect."""


def _problem(of: Field[Any], value: Any) -> str | None:
    """What is wrong with the value of a field, as advice."""
    names, limits = allowed(of), of.metadata
    if names and value not in names.values() and not (value is None and of.default is None):
        near = get_close_matches(str(value), names, 1)
        return f"it must be one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be a finite number"
    if value < limits.get("least", value):
        return f"it must be {limits['least']} or more"
    if "above" in limits and value <= limits["above"]:
        return f"it must be more than {limits['above']}"
    return f"it must be {limits['most']} or less" if value > limits.get("most", value) else None
