"""The commands that look at what exists: `sfm-quant inspect`, `verify`, `diff` and `data`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..foundation import files, interrupts
from ..foundation.errors import InputError
from ..foundation.options import ReportOptions
from .click_options import PATH, takes
from .outputs import deliver, example, force_option, json_option, output, quiet


@click.command(
    epilog=example(
        "sfm-quant inspect w8a8/",
        "sfm-quant inspect w8a8/ --html report.html --result result.json --predictions recognised.jsonl",
    )
)
@output("--html", "Write a one-page report with plots instead of printing the table.")
@takes(ReportOptions)
@force_option
@click.pass_context
def inspect(ctx: click.Context, options: ReportOptions, html: str | None) -> None:
    """Print the plan of a quantized model.

    It shows the choices for each layer, and the reasons. The report needs the extra `report`.
    """
    if not html and (options.result or options.predictions):
        raise click.UsageError("--result and --predictions are only for the report; add --html FILE", ctx)
    if not html:
        from ..quantization.plan.table import plan_table

        deliver(plan_table(options.folder))
        return
    quiet()
    from ..report.page import page

    text = page(**asdict(options))
    interrupts.settle()
    files.write(Path(html), text)
    click.echo(f"wrote {html}; open it in a browser")


@click.command(epilog=example("sfm-quant verify w8a8/"))
@click.argument("folder", metavar="DIR", type=PATH)
def verify(folder: str) -> None:
    """Check that a quantized model is complete and unchanged.

    Checks every file except the model card against its checksum, and plan, config.json and weights against each other.
    Prints ok, or each problem and exits with 3.
    """
    quiet()
    from ..models.checkpoint.verify import problems

    found = problems(Path(folder))
    deliver("\n".join(found) or f"{folder}: ok")
    if found:
        raise InputError(
            f"{folder}: the folder was changed or damaged (problems: {len(found)}); copy it again, or recalibrate"
        )


@click.command(epilog=example("sfm-quant diff w8a8/ edited/plan.json"))
@click.argument("first", metavar="PLAN", type=PATH)
@click.argument("second", metavar="PLAN", type=PATH)
def diff(first: str, second: str) -> None:
    """Show the differences between two plans.

    PLAN is a plan.json or a quantized folder. Shows layers, sites with other bits, methods or ranges, and sizes.
    """
    from ..quantization.plan.diff import diff_table

    deliver(diff_table(first, second))


@click.command(epilog=example("sfm-quant data test/manifest.jsonl"))
@click.argument("data", metavar="DATA", type=PATH)
@json_option
@force_option
def data(data: str, json_file: str | None) -> None:
    """Summarize DATA: its layout, hours, speakers, lengths and problems.

    Exits with 3 if there are problems; the good entries are still counted.
    """
    from ..speech.data_summary import summary, table

    found = summary(data)
    deliver(table(found), json.dumps(found, indent=1, allow_nan=False) + "\n", json_file)
    if found["problems"]:
        raise InputError(
            f"{data}: not all of it can be used (problems: {len(found['problems'])}); correct or remove the entries"
        )
