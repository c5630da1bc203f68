"""Strict reading of JSON into frozen dataclasses: every field known, of its type, finite, and there once."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from reprlib import repr as shortened
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

KINDS = {  # of values in JSON, in words
    str: "text",
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    tuple: "a list",
}

_hints = cache(get_type_hints)


def parsed(text: str) -> Any:
    """What some JSON says; ValueError for a key that is there twice."""
    return json.loads(text, object_pairs_hook=_object)


def entry_of(cls: Any, name: str, entry: Any) -> Any:
    """As `read`, and what is wrong names the site or layer."""
    try:
        return read(cls, entry)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}") from error


def read(cls: Any, entry: dict[str, Any]) -> Any:
    if not isinstance(entry, dict):
        raise TypeError(f"{shortened(entry)} is not a JSON object")
    unknown = set(entry) - {f.name for f in fields(cls)}
    if unknown:
        known = get_close_matches(sorted(unknown)[0], [f.name for f in fields(cls)], 1)
        raise TypeError(f"unknown field {sorted(unknown)[0]!r}" + (f"; {known[0]!r} is one" if known else ""))
    if "candidates" in entry:
        entry = {**entry, "candidates": tuple((float(share), float(points)) for share, points in entry["candidates"])}
    return cls(**{key: typed(key, value, _hints(cls)[key]) for key, value in entry.items()})


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value when it is of the type that the field has, and finite; an int will do for a float."""
    types = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
    if float in types and type(value) is int:
        value = float(value)
    if type(value) not in types or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{name} is {shortened(value)}, not {KINDS.get(types[0], 'what belongs there')}")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {shortened(value)}, not {KINDS[dict]}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; with a key twice, one of both would be lost in silence."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is there twice; remove one of them")
        found[key] = value
    return found
