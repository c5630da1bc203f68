"""A plan as in plan.json, which people may have edited: an entry can leave out what follows from the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...foundation import strict_json
from ...foundation.errors import InputError
from .choice import LayerChoice
from .site_entry import Entry, said

SCHEMA = 1
PLAN_FILE = "plan.json"
ABOUT: Mapping[str, type] = {  # what readers of a plan rely on in its free-form parts, where it is there
    "name": str,
    "unit": str,
    "threshold": float,
    "whole_model": float,
    "recordings": int,
    "seconds": float,
    "float_passes": float,
    "audio_sha256": list,
}


@dataclass(frozen=True)
class Draft:
    """The fields of plan.json; see Plan."""

    scheme: str
    method: str
    sites: dict[str, Entry]
    layers: dict[str, LayerChoice]
    score: strict_json.JsonObject = field(default_factory=dict)
    calibration: strict_json.JsonObject = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def quantized(self) -> int:
        """How many sites are on integer grids."""
        return sum(entry.reason is None for entry in self.sites.values())

    def to_json(self) -> str:
        """Readable JSON without unset fields."""
        entries = {key: {name: said(each) for name, each in getattr(self, key).items()} for key in ("sites", "layers")}
        text = json.dumps({**vars(self), **entries}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return text.encode(errors="backslashreplace").decode()  # paths may be no text; half characters stay valid JSON

    @staticmethod
    def from_json(text: str, source: str = "plan") -> Draft:
        """Read a plan; InputError names what is wrong in `source`."""
        try:
            data = strict_json.mapping(strict_json.parsed(text), "the plan")
            if data["schema"] != SCHEMA:
                raise InputError(
                    f"{source}: plan schema {data['schema']} is not {SCHEMA}; write it again with this version"
                )
            sites, layers = (
                {
                    name: strict_json.entry_of(kind, name, entry)
                    for name, entry in strict_json.mapping(data[key], key).items()
                }
                for key, kind in (("sites", Entry), ("layers", LayerChoice))
            )
            json.dumps(data, allow_nan=False)  # refuses the infinite numbers that Python reads
            draft = strict_json.read(Draft, {**data, "sites": sites, "layers": layers})
            _check_about(draft)
            return draft
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"{source}: not a plan (no field {error})") from error
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise InputError(f"{source}: not a plan ({error})") from error


def read_draft(path: Path) -> Draft:
    """The plan in a file as it stands, or in a folder that `sfm-quant calibrate` wrote."""
    path = path / PLAN_FILE if path.is_dir() else path
    return Draft.from_json(
        strict_json.text_of(path, "a plan.json, or a folder that `sfm-quant calibrate` wrote"), str(path)
    )


def _check_about(draft: Draft) -> None:
    for about in (draft.score, draft.calibration):
        for name in ABOUT.keys() & about.keys():
            strict_json.typed(name, about[name], ABOUT[name])
    if not all(isinstance(each, str) for each in draft.calibration.get("audio_sha256", ())):
        raise TypeError("audio_sha256 contains something other than text")
