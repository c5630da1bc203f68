"""What two plans decide differently, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .checking import choice_problem
from .choice import Choice
from .plan import Plan, read_plan

WHAT = ("layer", "kind", "weight_method", "rounding", "method", "clip_percent", "mid_rise")
OTHER_RECORDINGS = " (on other recordings: not comparable)"


def diff_table(first: str, second: str) -> str:
    """What changes from the first plan to the second; each is a plan.json or the folder of one."""
    a, b = (read_plan(Path(each)) for each in (first, second))
    changes = [*_head(a, b), *_layers(a, b), *_sites(a, b)]
    wrong = [*_contradictions(first, a), *_contradictions(second, b)]
    return "\n".join([*(changes or ["the plans decide the same"]), *_sizes(first, second), *wrong])


def _contradictions(path: str, plan: Plan) -> Iterator[str]:
    """What `calibrate --plan` would refuse."""
    for name, choice in plan.quantized().items():
        if problem := choice_problem(choice):
            yield f"{path} cannot be applied: {name}: {problem}"


def _head(a: Plan, b: Plan) -> Iterator[str]:
    for name in ("scheme", "method"):
        if getattr(a, name) != getattr(b, name):
            yield f"{name}: {getattr(a, name)} -> {getattr(b, name)}"
    scores = [plan.score.get("whole_model") for plan in (a, b)]
    if scores[0] != scores[1]:
        same = a.calibration.get("audio_sha256") == b.calibration.get("audio_sha256")
        yield f"score of the whole plan: {' -> '.join(map(_number, scores))}{'' if same else OTHER_RECORDINGS}"


def _layers(a: Plan, b: Plan) -> Iterator[str]:
    chosen = [[name for name, layer in plan.layers.items() if layer.selected] for plan in (a, b)]
    for place, here, there in (("first", *chosen), ("second", *reversed(chosen))):
        only = [name for name in here if name not in there]
        if only:
            yield f"layers selected in the {place} only: {', '.join(only)}"


def _sites(a: Plan, b: Plan) -> Iterator[str]:
    names = [*a.sites, *(name for name in b.sites if name not in a.sites)]
    for name in names:
        if name not in b.sites or name not in a.sites:
            yield f"{name}: in the {'first' if name in a.sites else 'second'} plan only"
        elif changes := ", ".join(_changes(a.sites[name], b.sites[name])):
            yield f"{name}: {changes}"


def _changes(a: Choice, b: Choice) -> Iterator[str]:
    """What is decided differently at one site; the evidence may differ with the recordings and is left out."""
    if not (a.quantized and b.quantized):
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


def _bits(choice: Choice) -> str:
    if not choice.quantized:
        return f"float ({choice.reason})"
    packed = choice.weight_bits is not None and choice.weight_format.dense
    return f"{choice.weight_format if packed else f'w{choice.weight_bits}'}a{choice.input_bits}"


def _range(choice: Choice) -> str:
    return "none" if choice.low is None else f"[{_number(choice.low)}, {_number(choice.high)}]"


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _sizes(first: str, second: str) -> Iterator[str]:
    """Bytes of the weights beside each plan, where there are any."""
    sizes = [sum(file.stat().st_size for file in _folder(each).glob("*.safetensors")) for each in (first, second)]
    if all(sizes):
        yield f"weights on disk: {sizes[0]:,} -> {sizes[1]:,} bytes"


def _folder(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent
