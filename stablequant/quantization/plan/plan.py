"""The Plan: for every site its bits, range and rounding, with the evidence; one frozen value, plain JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from reprlib import repr as shortened
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ...foundation.errors import InputError
from ..numerics.activation_grid import Grid, signed_grid, unsigned_grid
from ..numerics.weight_grid import WeightFormat

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

KINDS = {  # of values in JSON, in words
    str: "text",
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    tuple: "a list",
}


@dataclass(frozen=True)
class Choice:
    """What is done at one site. A site with `reason` stays in float and has no other field but its layer and kind."""

    layer: str
    kind: str
    reason: str | None = None
    weight_bits: int | None = None
    weight_group: int | None = None  # weights that share a step, in bits of 4 and fewer; None: the whole row
    weight_asymmetric: bool | None = None  # groups have offsets of their own
    weight_count: int | None = None
    weight_bytes: int | None = None  # on disk, all scales counted
    weight_method: str | None = None  # range method of the weights, per output channel
    weight_sqnr_db: float | None = None
    rounding: str | None = None
    input_bits: int | None = None
    method: str | None = None  # range method of the input
    clip_percent: float | None = None  # share that the percentile search removed before, in %
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    mid_rise: bool | None = None  # zero lies half a step below the code `zero_point`, between two codes
    clipped_share: float | None = None  # share of the calibration values outside [low, high]
    input_sqnr_db: float | None = None
    probe_score: float | None = None  # of its layer, quantized alone

    @property
    def quantized(self) -> bool:
        return self.reason is None

    @property
    def weight_grid(self) -> Grid:
        return signed_grid(_known(self.weight_bits))

    @property
    def weight_format(self) -> WeightFormat:
        return WeightFormat(_known(self.weight_bits), self.weight_group, bool(self.weight_asymmetric))

    @property
    def stored_as(self) -> str:
        """The format of the codes on disk and the bits of the input, as config.json has them: w8a8, w4g64za8."""
        return f"{self.weight_format if self.weight_format.dense else WeightFormat(8)}a{self.input_bits}"

    @property
    def input_grid(self) -> Grid:
        return unsigned_grid(_known(self.input_bits))

    @property
    def input_scale(self) -> float:
        return _known(self.scale)

    @property
    def input_zero_point(self) -> float:
        return _known(self.zero_point) - (0.5 if self.mid_rise else 0.0)


@dataclass(frozen=True)
class LayerChoice:
    """What the probe found for one layer and what the search chose."""

    selected: bool
    why: str
    probe_score: float | None = None
    clip_percent: float | None = None
    candidates: tuple[tuple[float, float], ...] = ()  # (removed share in %, score) in the order tried


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
        return 8 * sum(_known(c.weight_bytes) for c in found) / sum(_known(c.weight_count) for c in found)

    def only(self, layer: str) -> Plan:
        """The same plan with every other layer in float: what a probe scores."""
        return replace(self, sites={name: c for name, c in self.sites.items() if c.layer == layer})

    def to_json(self) -> str:
        """Readable JSON, fields that say nothing left out."""
        data = asdict(self)
        for group in ("sites", "layers"):
            data[group] = {name: _said(entry) for name, entry in data[group].items()}
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "plan") -> Plan:
        """Read a plan; InputError names what is wrong in `source`."""
        try:
            data = _fields(json.loads(text, object_pairs_hook=_object), "the plan")
            if data["schema"] != SCHEMA:
                raise InputError(
                    f"{source}: plan schema {data['schema']} is not {SCHEMA}; write it again with this version"
                )
            sites = {name: _entry(Choice, name, entry) for name, entry in _fields(data["sites"], "sites").items()}
            layers = {n: _entry(LayerChoice, n, entry) for n, entry in _fields(data["layers"], "layers").items()}
            json.dumps(data, allow_nan=False)  # refuses the infinite numbers that Python reads
            plan: Plan = _read(Plan, {**data, "sites": sites, "layers": layers})
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


def parse_scheme(scheme: str) -> tuple[int, int]:
    """Bits of weights and activations: "w8a8" -> (8, 8)."""
    weight, _, activation = scheme.lower().removeprefix("w").partition("a")
    if not (scheme[:1] in "wW" and weight.isdecimal() and activation.isdecimal()):
        raise InputError(f"scheme {scheme!r} is not of the form w8a8")
    bits = int(weight), int(activation)
    if not all(2 <= b <= 8 for b in bits):
        raise InputError(f"scheme {scheme!r}: 2 to 8 bits are possible for weights and activations")
    return bits


def to_entry(choice: Choice) -> dict[str, Any]:
    """A choice as JSON shows it."""
    return _said(asdict(choice))


def _said(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None and not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return isinstance(value, tuple) and not value


_hints = cache(get_type_hints)


def _entry(cls: Any, name: str, entry: Any) -> Any:
    """As `_read`, and what is wrong names the site or layer."""
    try:
        return _read(cls, entry)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}") from error


def _read(cls: Any, entry: dict[str, Any]) -> Any:
    if not isinstance(entry, dict):
        raise TypeError(f"{shortened(entry)} is not a JSON object")
    unknown = set(entry) - {f.name for f in fields(cls)}
    if unknown:
        known = get_close_matches(sorted(unknown)[0], [f.name for f in fields(cls)], 1)
        raise TypeError(f"unknown field {sorted(unknown)[0]!r}" + (f"; {known[0]!r} is one" if known else ""))
    if "candidates" in entry:
        entry = {**entry, "candidates": tuple((float(share), float(points)) for share, points in entry["candidates"])}
    return cls(**{key: _typed(key, value, _hints(cls)[key]) for key, value in entry.items()})


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value when it is of the type that the field has, and finite; an int will do for a float."""
    types = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
    if float in types and type(value) is int:
        value = float(value)
    if type(value) not in types or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{name} is {shortened(value)}, not {KINDS.get(types[0], 'what belongs there')}")
    return value


def _check_about(plan: Plan) -> None:
    for about in (plan.score, plan.calibration):
        for name in ABOUT.keys() & about.keys():
            _typed(name, about[name], ABOUT[name])
    if not all(isinstance(each, str) for each in plan.calibration.get("audio_sha256", ())):
        raise TypeError("audio_sha256 holds something else than text")


def _fields(value: Any, name: str) -> dict[str, Any]:
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


def _known(value: Any) -> Any:
    if value is None:
        raise ValueError("this site stays in float")
    return value
