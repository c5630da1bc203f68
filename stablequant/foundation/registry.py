"""Plug-ins by file name: a method is one file in the folder of its kind."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from .errors import InputError

PACKAGE = __name__.partition(".")[0]
FOLDERS = {  # of each kind of method, in this package
    "ranges": "quantization.ranges",
    "rounding": "quantization.rounding",
    "weight_formats": "quantization.weight_formats",
    "planners": "quantization.planners",
    "layouts": "speech.layouts",
    "families": "models.families",
    "tasks": "models.tasks",
}


def names(kind: str) -> tuple[str, ...]:
    """The methods of a kind ("ranges", "planners", "layouts", ...), sorted; without a folder's SHARED names."""
    package = importlib.import_module(f"{PACKAGE}.{FOLDERS[kind]}")
    found = {info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")}
    return tuple(sorted(found - set(getattr(package, "SHARED", ()))))


def get(kind: str, name: str) -> ModuleType:
    """The module of a method; InputError with the closest name if there is none."""
    known = names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no method {name!r} in {kind} (available: {', '.join(known)}){hint}")
    return importlib.import_module(f"{PACKAGE}.{FOLDERS[kind]}.{name}")
