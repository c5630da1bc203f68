"""`sfm-quant eval`."""

from __future__ import annotations

import os

import click

from ..foundation.options import EvaluateOptions
from .click_options import takes
from .outputs import deliver, example, force_option, json_option, output, quiet


@click.command(
    "eval",
    epilog=example(
        "sfm-quant eval w8a8/ --data test/manifest.jsonl --baseline facebook/wav2vec2-base-960h \\",
        "    --max-wer-increase 0.3 --min-compression 3.5 --json result.json --junit result.xml",
        "sfm-quant eval w8a8/ w6a6/ --data test/ --skip-bad --predictions recognised.jsonl",
    ),
)
@takes(EvaluateOptions)
@json_option
@output("--predictions", "Write the recognised text as a manifest, one JSON line per utterance.")
@output("--junit", "Write JUnit XML with one test case per limit.")
@force_option
@click.pass_context
def evaluate(
    ctx: click.Context, options: EvaluateOptions, json_file: str | None, predictions: str | None, junit: str | None
) -> None:
    """Measure word error rate, speed and size.

    MODEL is a folder or a hub id, float or quantized. DATA needs transcripts. Several models are measured in turn on
    the same utterances, and each is checked against the limits. Exits with 1 if a limit is missed. If GITHUB_ACTIONS
    is set, as on GitHub, missed limits and warnings also become annotations.
    """
    quiet()
    from ..evaluation import junit_github
    from ..evaluation.result import table
    from ..workflows.evaluate import evaluate as run

    result = run(options)
    annotations = junit_github.github_annotations(result) if os.environ.get("GITHUB_ACTIONS") else ()
    deliver(
        "\n".join([table(result), *annotations]),
        result.to_json(),
        json_file,
        {predictions: result.predictions_jsonl, junit: lambda: junit_github.junit(result)},
    )
    ctx.exit(0 if result.passed else 1)
