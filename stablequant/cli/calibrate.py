"""`sfm-quant calibrate`."""

from __future__ import annotations

import json
import os

import click

from ..foundation.options import CalibrateOptions
from ..foundation.reading import JsonObject
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
    sites = result["sites"]
    clipped = {site["layer"] for site in sites if site.get("clip_percent")}
    held_out = result.get("held_out")
    quantized = sum("reason" not in site for site in sites)  # one that stays in float says why
    before, after = result["bytes_before"], result["bytes_after"]
    return "\n".join(
        [
            f"{result['scheme']}, {result['method']}: {quantized} of {len(sites)} sites quantized",
            f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, {before / after:.2f} times smaller "
            f"({result['bytes_float32'] / after:.2f} times smaller than its parameters in float32)",
            f"layers clipped before the range was chosen: {len(clipped)} of {len({site['layer'] for site in sites})}",
            *([f"on {held_out['words']} held-out words: {held_out['wer_increase']:+.2f} points"] if held_out else []),
            f"score: {result['score']['whole_model']:.2f} {result['score']['unit']}",
            f"{result['float_passes']} float passes, {result['seconds']:.0f} s; plan: {result['plan']}",
        ]
    )
