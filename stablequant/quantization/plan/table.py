"""A plan as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...foundation.errors import InputError
from ...foundation.tables import columns, score_sentence
from .choice import LayerChoice
from .plan_file import PLAN_FILE, Draft, read_draft
from .site_entry import Entry

OF_LAYERS = ("probe", "selected", "removed %")
LEGEND = (
    ("site", "a module with weights, and what was chosen for it; one that stays in float says why"),
    ("probe", "score of the model with only this layer quantized, by its smallest and largest inputs"),
    ("selected", "whether that was too much (--threshold), so that a better range was searched"),
    ("removed %", "inputs that were left out as outliers before the range was chosen; the search found how many"),
    (
        "bits",
        "w8a8: weights of 8 bits, inputs of 8 bits; g64: 64 weights share a scale; z: they also have an offset; "
        "2:4: 2 of every 4 are kept, the others are zero",
    ),
    ("method", "how the range of the inputs was found"),
    ("low, high", "the range of the inputs; what lies outside becomes the nearest end"),
    (
        "clipped %",
        "inputs outside the range; several per cent are normal behind GELU, whose small negative values are cut",
    ),
    ("SQNR dB", "inputs against the error of their quantization; higher is better, 20 dB is an error of a tenth"),
)


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
    yield ""
    yield from columns(LEGEND if plan.layers else [row for row in LEGEND if row[0] not in OF_LAYERS])


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
