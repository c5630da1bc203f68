"""The file name is the registry: a method is one file in its folder, found by its name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from .errors import InputError


def names(folder: str) -> tuple[str, ...]:
    """The methods in a folder of this package ("ranges", "planners", "rounding"), sorted."""
    package = importlib.import_module(f"{__package__}.{folder}")
    return tuple(sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")))


def get(folder: str, name: str) -> ModuleType:
    """The module of a method; InputError with the nearest name when there is none."""
    known = names(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no method {name!r} in {folder} (there are {', '.join(known)}){hint}")
    return importlib.import_module(f"{__package__}.{folder}.{name}")
