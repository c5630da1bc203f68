"""A plan as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...foundation.errors import InputError
from ...foundation.tables import columns
from .choice import LayerChoice
from .draft import PLAN_FILE, Draft, read_draft
from .entry import Entry


def plan_table(folder: str) -> str:
    """The plan of a quantized folder: the whole, its layers with the probe's evidence, its sites."""
    plan = plan_of(folder)
    return "\n".join((*summary(plan), "", *_layers(plan), *_sites(plan)))


def plan_of(folder: str) -> Draft:
    """The plan of a quantized folder as it stands; InputError when it has none."""
    path = Path(folder) / PLAN_FILE
    if Path(folder).is_file():
        raise InputError(f"{folder}: a file; pass the folder that `sfm-quant calibrate` wrote")
    if not path.is_file():
        raise InputError(f"{folder}: no plan.json here; pass a folder that `sfm-quant calibrate` wrote")
    return read_draft(path)


def summary(plan: Draft) -> Iterable[str]:
    """What was quantized and on what it was calibrated, a line each."""
    about = plan.calibration
    yield f"{plan.scheme}, method {plan.method}: {plan.quantized} of {len(plan.sites)} sites quantized"
    if {"recordings", "seconds"} <= about.keys():
        yield f"calibrated on {about['recordings']} recordings, {about['seconds']:.0f} s of audio"
    if {"whole_model", "unit"} <= plan.score.keys():
        yield score_sentence(plan.score["whole_model"], plan.score["unit"])


def score_sentence(points: float, unit: str) -> str:
    """The score of a whole plan, for people who do not know scores."""
    return f"score: {points:.3f} {unit}; lower is better, 0 = same as the float model"


def _layers(plan: Draft) -> Iterable[str]:
    if plan.layers:
        head = ("layer", "probe", "selected", "removed %")
        yield from columns([head, *(_layer(name, layer) for name, layer in plan.layers.items())], "<>>>")
        yield ""


def _layer(name: str, layer: LayerChoice) -> tuple[str, ...]:
    return name, _shown(layer.probe_score, ".3f"), "yes" if layer.selected else "no", _shown(layer.clip_percent, ".2f")


def _sites(plan: Draft) -> Iterable[str]:
    head = ("site", "bits", "bytes", "method", "low", "high", "clipped %", "SQNR dB")
    yield from columns([head, *((name, *_site(entry)) for name, entry in plan.sites.items())], "<>>>>>>>")
    yield "bits: w of weights, a of inputs; g64: groups of 64 weights share a step; z: groups also have an offset."
    if plan.layers:
        yield "removed %: share of the largest values that was removed before the range was searched."
    yield "clipped %: values outside [low, high]; several per cent are usually the end of GELU's short tail."


def _site(entry: Entry) -> tuple[str, ...]:
    if entry.reason is not None:
        return (f"float: {entry.reason}",)
    return (
        entry.bits,
        _shown(entry.weight_bytes, ","),
        entry.method or "",
        _shown(entry.low, ".4f"),
        _shown(entry.high, ".4f"),
        "" if entry.clipped_share is None else f"{100 * entry.clipped_share:.4f}",
        _shown(entry.input_sqnr_db, ".1f"),
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
