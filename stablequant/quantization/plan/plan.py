"""The Plan: for every site its bits, range and rounding, with the evidence; one frozen value, plain JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...foundation.errors import InputError
from . import reading
from .choice import Choice, LayerChoice, said

SCHEMA = 1
PLAN_FILE = "plan.json"
ABOUT = {  # what readers of a plan rely on in its free-form parts, where it is there
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
class Plan:
    """The decisions for a whole model."""

    scheme: str
    method: str
    sites: dict[str, Choice]
    layers: dict[str, LayerChoice] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)  # name, unit, threshold, of the whole plan
    calibration: dict[str, Any] = field(default_factory=dict)  # recordings, hashes, seed, float passes
    schema: int = SCHEMA

    def quantized(self) -> dict[str, Choice]:
        return {name: choice for name, choice in self.sites.items() if choice.quantized}

    def average_bits(self) -> float:
        """Bits of a quantized weight on disk, all scales counted."""
        found = self.quantized().values()
        return 8 * sum(int(c.weight_bytes or 0) for c in found) / sum(int(c.weight_count or 0) for c in found)

    def to_json(self) -> str:
        """Readable JSON, fields that say nothing left out."""
        data = asdict(self)
        for group in ("sites", "layers"):
            data[group] = {name: said(entry) for name, entry in data[group].items()}
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return text.encode(errors="backslashreplace").decode()  # paths may be no text; half characters stay valid JSON

    @staticmethod
    def from_json(text: str, source: str = "plan") -> Plan:
        """Read a plan; InputError names what is wrong in `source`."""
        try:
            data = reading.mapping(reading.parsed(text), "the plan")
            if data["schema"] != SCHEMA:
                raise InputError(
                    f"{source}: plan schema {data['schema']} is not {SCHEMA}; write it again with this version"
                )
            sites, layers = (
                {name: reading.entry_of(kind, name, entry) for name, entry in reading.mapping(data[key], key).items()}
                for key, kind in (("sites", Choice), ("layers", LayerChoice))
            )
            json.dumps(data, allow_nan=False)  # refuses the infinite numbers that Python reads
            plan: Plan = reading.read(Plan, {**data, "sites": sites, "layers": layers})
            _check_about(plan)
            return plan
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"{source}: not a plan (no field {error})") from error
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise InputError(f"{source}: not a plan ({error})") from error


def read_plan(path: Path) -> Plan:
    """The plan in a file, or in a folder that `sfm-quant calibrate` wrote."""
    path = path / PLAN_FILE if path.is_dir() else path
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; give a plan.json, or a folder that `sfm-quant calibrate` wrote")
        if not path.is_file():
            raise InputError(f"{path}: a pipe or device, not a file; give a plan.json")
        return Plan.from_json(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a plan (not UTF-8 text); give a plan.json") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _check_about(plan: Plan) -> None:
    for about in (plan.score, plan.calibration):
        for name in ABOUT.keys() & about.keys():
            reading.typed(name, about[name], ABOUT[name])
    if not all(isinstance(each, str) for each in plan.calibration.get("audio_sha256", ())):
        raise TypeError("audio_sha256 holds something else than text")
