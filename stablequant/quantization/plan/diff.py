"""The differences between two plans, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .checking import entry_problem
from .plan_file import Draft, read_draft
from .site_entry import Entry

WHAT = ("layer", "kind", "weight_method", "rounding", "method", "clip_percent", "mid_rise")
OTHER_RECORDINGS = " (on other recordings: not comparable)"


def diff_table(first: str, second: str) -> str:
    """What changes from the first plan to the second; each is a plan.json or the folder of one."""
    a, b = (read_draft(Path(each)) for each in (first, second))
    changes = [*_head(a, b), *_layers(a, b), *_sites(a, b)]
    wrong = [*_contradictions(first, a), *_contradictions(second, b)]
    return "\n".join([*(changes or ["the plans make the same choices"]), *_sizes(first, second), *wrong])


def _contradictions(path: str, plan: Draft) -> Iterator[str]:
    """What `calibrate --plan` would refuse."""
    for name, entry in plan.sites.items():
        if entry.reason is None and (problem := entry_problem(entry)):
            yield f"{path} cannot be applied: {name}: {problem}"


def _head(a: Draft, b: Draft) -> Iterator[str]:
    for name in ("scheme", "method"):
        if getattr(a, name) != getattr(b, name):
            yield f"{name}: {getattr(a, name)} -> {getattr(b, name)}"
    scores = [plan.score.get("whole_model") for plan in (a, b)]
    if scores[0] != scores[1]:
        same = a.calibration.get("audio_sha256") == b.calibration.get("audio_sha256")
        yield f"score of the whole plan: {' -> '.join(map(_number, scores))}{'' if same else OTHER_RECORDINGS}"


def _layers(a: Draft, b: Draft) -> Iterator[str]:
    chosen = [[name for name, layer in plan.layers.items() if layer.selected] for plan in (a, b)]
    for place, here, there in (("first", *chosen), ("second", *reversed(chosen))):
        only = [name for name in here if name not in there]
        if only:
            yield f"layers selected in the {place} only: {', '.join(only)}"


def _sites(a: Draft, b: Draft) -> Iterator[str]:
    names = [*a.sites, *(name for name in b.sites if name not in a.sites)]
    for name in names:
        if name not in b.sites or name not in a.sites:
            yield f"{name}: in the {'first' if name in a.sites else 'second'} plan only"
        elif changes := ", ".join(_changes(a.sites[name], b.sites[name])):
            yield f"{name}: {changes}"


def _changes(a: Entry, b: Entry) -> Iterator[str]:
    """The different choices at one site; the measurements may differ with the recordings and are left out."""
    if a.reason is not None or b.reason is not None:
        if a.reason != b.reason:
            yield f"{_bits(a)} -> {_bits(b)}"
        return
    if _bits(a) != _bits(b):
        yield f"{_bits(a)} -> {_bits(b)}"
    for name in WHAT:
        if getattr(a, name) != getattr(b, name):
            yield f"{name} {_text(getattr(a, name))} -> {_text(getattr(b, name))}"
    if (a.low, a.high) != (b.low, b.high):
        yield f"range {_range(a)} -> {_range(b)}"


def _bits(entry: Entry) -> str:
    return entry.bits if entry.reason is None else f"float ({entry.reason})"


def _range(entry: Entry) -> str:
    return "none" if entry.low is None else f"[{_number(entry.low)}, {_number(entry.high)}]"


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _sizes(first: str, second: str) -> Iterator[str]:
    """Bytes of the weights next to each plan, if there are any."""
    sizes = [sum(file.stat().st_size for file in _folder(each).glob("*.safetensors")) for each in (first, second)]
    if all(sizes):
        yield f"weights on disk: {sizes[0]:,} -> {sizes[1]:,} bytes"


def _folder(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent
