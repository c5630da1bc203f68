"""Strict reading of the JSON that we write: every field known, of its type, finite, and there once."""

from __future__ import annotations

import json
import math
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from reprlib import repr as shortened
from types import UnionType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from .errors import InputError

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, Any]  # what json.loads gives: any mixture of what JSON has

KINDS: dict[object, str] = {  # of values in JSON, in words
    str: "text",
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    tuple: "a list",
}


@cache
def _hints(cls: type) -> dict[str, object]:
    return get_type_hints(cls)


def text_of(path: Path, what: str) -> str:
    """The text of one of our files; InputError that names `what` belongs there."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; pass {what}")
        if not path.is_file():
            raise InputError(f"{path}: a folder, pipe or device, not a file; pass {what}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); pass {what}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from error


def parsed(text: str) -> object:
    """The content of some JSON; ValueError for a key that appears twice."""
    return json.loads(text, object_pairs_hook=_object)


def entry_of(cls: type[T], name: str, entry: object) -> T:
    """Like `read`, with the name of the site or layer in the error."""
    try:
        return read(cls, entry)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}") from error


def read(cls: type[T], entry: object) -> T:
    """A dataclass of the fields in a JSON object."""
    if not isinstance(entry, dict):
        raise TypeError(f"{shortened(entry)} is not a JSON object")
    kind: type = cls
    hints = _hints(kind)
    unknown = set(entry) - set(hints)
    if unknown:
        known = get_close_matches(sorted(unknown)[0], [*hints], 1)
        raise TypeError(f"unknown field {sorted(unknown)[0]!r}" + (f"; {known[0]!r} is one" if known else ""))
    return cls(**{key: typed(key, value, hints[key]) for key, value in entry.items()})


def typed(name: str, value: object, hint: object) -> object:
    """The value, if it is of the field's type and finite; an int is accepted for a float."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    types = tuple(get_origin(kind) or kind for kind in kinds)
    if Any in types:
        return value
    if type(value) in (list, dict) and (parts := get_args(kinds[0])):
        return _parts(name, value, types[0], parts)
    if float in types and type(value) is int:
        value = float(value)
    if type(value) not in types or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{name} is {shortened(value)}, not {KINDS.get(types[0], 'of the right type')}")
    return value


def _parts(name: str, value: object, kind: object, parts: tuple[object, ...]) -> object:
    """What a list or an object holds, as the types of its parts say."""
    if kind is dict and isinstance(value, dict):
        return {key: typed(f"{key} of {name}", each, parts[1]) for key, each in value.items()}
    hints = parts[:1] * len(value) if Ellipsis in parts and isinstance(value, list) else parts
    if kind is not tuple or not isinstance(value, list) or len(value) != len(hints):
        raise TypeError(f"{name} is {shortened(value)}, not {KINDS.get(kind, 'what belongs there')}")
    return tuple(typed(name, each, hint) for each, hint in zip(value, hints, strict=True))


def mapping(value: object, name: str) -> JsonObject:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {shortened(value)}, not {KINDS[dict]}")
    return value


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    """A JSON object; if a key appeared twice, one of the two would be lost silently."""
    found: JsonObject = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} appears twice; remove one of them")
        found[key] = value
    return found
