"""`sfm-quant calibrate`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click

from ..foundation.options import CalibrateOptions
from ..foundation.strict_json import JsonObject
from ..foundation.tables import score_sentence
from .click_options import takes
from .outputs import deliver, example, force_option, json_option, quiet


@click.command(
    epilog=example(
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data calibration/ --out w8a8/",
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data calibration/ --out edited/ --plan w8a8/plan.json",
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data calibration/ --out small/ --target-compression 8",
    )
)
@takes(CalibrateOptions)
@json_option
@force_option
def calibrate(options: CalibrateOptions, json_file: str | None) -> None:
    """Quantize MODEL with the recordings in DATA.

    MODEL is a float model: a folder or a hub id (owner/name or owner/name@revision). A few dozen recordings like those
    to be transcribed are enough; they need no transcripts, except for --score wer and --max-wer-increase.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # see reproducible.py; it has to be set before torch is imported
    quiet()
    from ..workflows.calibrate import calibrate as run

    result = run(options)
    deliver(_table(result), json.dumps(result, indent=1, allow_nan=False) + "\n", json_file)


def _table(result: JsonObject) -> str:
    return "\n".join(_lines(result))


def _lines(result: JsonObject) -> Iterator[str]:
    sites = result["sites"]
    layers, clipped = {site["layer"] for site in sites}, {site["layer"] for site in sites if site.get("clip_percent")}
    quantized = sum("reason" not in site for site in sites)  # one that stays in float says why
    before, after = result["bytes_before"], result["bytes_after"]
    how = f"{result['scheme']}, {result['method']}"
    yield f"{how}: {quantized} of {len(sites)} sites quantized (a site is a module with weights)"
    yield (
        f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, {before / after:.2f} times smaller "
        f"({result['bytes_float32'] / after:.2f} times smaller than its parameters in float32)"
    )
    if patterns := [site["weight_sparsity"] for site in sites if "weight_sparsity" in site]:
        yield f"sparsity {', '.join(sorted(set(patterns)))} at {len(patterns)} of the {quantized} quantized sites"
    yield f"layers whose largest inputs were left out of the range, as outliers: {len(clipped)} of {len(layers)}"
    if held_out := result.get("held_out"):
        change = f"{held_out['wer_increase']:+.2f} points"
        yield f"change of the word error rate on {held_out['words']} held-out words: {change}"
    yield score_sentence(result["score"]["whole_model"], result["score"]["unit"])
    folder = Path(result["plan"]).parent
    yield f"took {result['seconds']:.0f} s; `sfm-quant inspect {folder}` shows the choices and the reasons"
