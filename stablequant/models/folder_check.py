"""What a model folder from somewhere may not do: run code of its own, or have files outside it read.

Links are followed, because the cache of the hub is made of them; but only to files, since reading a pipe or a device
may never end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..foundation.errors import InputError


def check_folder(folder: Path) -> None:
    """InputError when a model folder holds a pipe or device, an index that leads elsewhere, or asks for code."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a pipe or device, not a file; copy the model again")
    for path in sorted(folder.glob("*.index.json")):
        for name in _shards(path):
            if Path(name).name != name or not (folder / name).is_file():
                raise InputError(f"{path}: names {name!r}, which is not a file of this folder; copy the model again")
    for path in sorted(folder.glob("*config.json")):
        if isinstance(settings := _json(path), dict) and settings.get("auto_map"):
            raise InputError(
                f"{path}: asks for code of its own (auto_map), which stablequant never runs; use a model "
                "whose code is in transformers"
            )


def _shards(index: Path) -> Iterator[str]:
    settings = _json(index)
    places = settings.get("weight_map") if isinstance(settings, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index}: not an index of weights; copy the model again")
    yield from sorted(set(places.values()))


def _json(path: Path) -> Any:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(settings, allow_nan=False)  # no setting is infinite or no number; JSON does not have them either
        return settings
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); copy the model again") from error
