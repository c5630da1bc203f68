"""What a plan says, as a table to read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...foundation.errors import InputError
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
        raise InputError(f"{folder}: a file; give the folder that `sfm-quant calibrate` wrote")
    if not path.is_file():
        raise InputError(f"{folder}: no plan.json here; give a folder that `sfm-quant calibrate` wrote")
    return read_draft(path)


def summary(plan: Draft) -> Iterable[str]:
    """What was quantized and on what it was calibrated, a line each."""
    about = plan.calibration
    yield f"{plan.scheme}, method {plan.method}: {plan.quantized} of {len(plan.sites)} sites quantized"
    if {"recordings", "seconds", "float_passes"} <= about.keys():
        audio = f"{about['recordings']} recordings, {about['seconds']:.0f} s of audio"
        yield f"calibrated on {audio}; {about['float_passes']} float passes"
    if {"whole_model", "unit"} <= plan.score.keys():
        yield f"the whole plan scores {plan.score['whole_model']:.3f} {plan.score['unit']}"


def _layers(plan: Draft) -> Iterable[str]:
    if plan.layers:
        yield f"{'layer':48s} {'probe':>9s} {'selected':>9s} {'removed %':>10s}"
        for name, layer in plan.layers.items():
            clip = "" if layer.clip_percent is None else f"{layer.clip_percent:.2f}"
            probe = "" if layer.probe_score is None else f"{layer.probe_score:.3f}"
            yield f"{name:48s} {probe:>9s} {'yes' if layer.selected else 'no':>9s} {clip:>10s}"
        yield ""


def _sites(plan: Draft) -> Iterable[str]:
    weight = f"{'bits':>9s} {'bytes':>10s}"
    yield f"{'site':60s} {weight} {'method':>10s} {'low':>10s} {'high':>10s} {'clipped %':>10s} {'SQNR dB':>8s}"
    for name, choice in plan.sites.items():
        yield f"{name:60s} {_site(choice)}"
    yield "bits: of weights and inputs; g64: groups of 64 weights share a step, z: and an offset."
    if plan.layers:
        yield "removed %: the largest values, left out before the range was searched."
    yield "clipped %: values outside [low, high]; many per cent are the dense end of GELU's short tail, below low."


def _site(entry: Entry) -> str:
    if entry.reason is not None:
        return f"float: {entry.reason}"
    clipped = "" if entry.clipped_share is None else f"{100 * entry.clipped_share:.4f}"
    sqnr = "" if entry.input_sqnr_db is None else f"{entry.input_sqnr_db:.1f}"
    size = "" if entry.weight_bytes is None else f"{entry.weight_bytes:,}"
    low, high = ("" if limit is None else f"{limit:.4f}" for limit in (entry.low, entry.high))
    return f"{entry.bits:>9s} {size:>10s} {entry.method or '':>10s} {low:>10s} {high:>10s} {clipped:>10s} {sqnr:>8s}"
