"""`sfm-quant tune`."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from ..foundation.options import TuneOptions
from .click_options import takes
from .outputs import deliver, example, force_option, json_option, quiet


@click.command(
    epilog=example(
        "sfm-quant tune facebook/wav2vec2-base-960h --data train/ --out w3/ --scheme w3a8",
        "sfm-quant tune openai/whisper-tiny.en --data train/ --dev dev/ --out small/ --target-compression 10",
    )
)
@takes(TuneOptions)
@json_option
@force_option
def tune(options: TuneOptions, json_file: str | None) -> None:
    """Quantize MODEL to few bits and train it on the recordings in DATA.

    It starts from the result of `sfm-quant calibrate`. First each layer learns the outputs of the float model's layer,
    then the whole model learns its posteriors. A few hundred recordings are enough; they need no transcripts.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # see reproducible.py; it has to be set before torch is imported
    quiet()
    from ..workflows.tune import tune as run

    result = run(options)
    deliver(_table(result), json.dumps(result, indent=1, allow_nan=False) + "\n", json_file)


def _table(result: dict[str, Any]) -> str:
    before, after, training = result["bytes_before"], result["bytes_after"], result["training"]
    return "\n".join(
        [
            f"{result['scheme']}: {result['average_bits']:.2f} bits a weight on disk, scales counted",
            f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, {before / after:.2f} times smaller "
            f"({result['bytes_float32'] / after:.2f} times smaller than its parameters in float32)",
            f"trained on {training['recordings']} recordings: {training['layers']} layers alone, then "
            f"{training['steps']} steps end to end",
            f"score on {training['development']} held-out recordings: {training['score_before']:.2f} before the "
            f"training end to end, {result['score']['whole_model']:.2f} now ({result['score']['unit']}; 0 is the "
            "float model)",
            f"{result['seconds']:.0f} s; plan: {result['plan']}",
        ]
    )
