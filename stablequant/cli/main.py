"""The command line: parse, call, print. What a command prints for people goes to stdout, progress and logs to stderr.

Exit codes: 0 done, 1 a gate failed, 2 usage, 3 a model, data or disk that cannot be used, 70 a bug, 130 and 143
interrupted. Torch and transformers are imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..foundation import signals
from ..foundation.errors import InputError

Command = Callable[..., Any]


class Failure(click.ClickException):
    """Bad input, told in one sentence."""

    exit_code = 3


class GroupSize(click.ParamType):
    """A number of weights, "auto", or None for a whole row."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str | None:
        sizes: dict[str, int | str | None] = {"auto": "auto", "32": 32, "64": 64, "128": 128, "channel": None}
        if str(value) not in sizes:
            self.fail(f"{value} is not one of {', '.join(sizes)}", param, ctx)
        return sizes[str(value)]


class NotEmpty(click.Path):
    """A path; an empty one is a variable of the shell that is not set, and would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("", b""):
            self.fail("an empty path; is a variable of the shell not set?", param, ctx)
        return super().convert(value, param, ctx)


class Commands(click.Group):
    """Turns what users can mend into one sentence and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self._invoke(ctx)
        except InputError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads on; click ends quietly
                raise
            raise Failure(_system_sentence(error)) from error
        except KeyboardInterrupt as interrupt:
            signals.close()
            click.echo(f"Interrupted{ADVICE_TO_RESUME.get(str(ctx.invoked_subcommand), '')}.", err=True)
            ctx.exit(signals.exit_code(interrupt))

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            signals.start()
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception:  # it may be what a library made of an interrupt
            signals.settle()
            raise
        finally:
            signals.close()
            if progress := sys.modules.get("stablequant.foundation.progress"):
                progress.close()


BUG = 70  # EX_SOFTWARE of sysexits.h
LIMITS = ("avg_bits", "target_compression", "max_wer_increase")
ADVICE_TO_RESUME = {"calibrate": "; the same command with --resume goes on from here"}
ADVICE = {
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EACCES: "give a place that you may read and write",
    errno.EPERM: "give a place that you may read and write",
    errno.EROFS: "give a place that you may write to",
}


def _system_sentence(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if not where and error.errno == errno.ENOENT:
        return "the working directory is gone; change to one that is there"
    advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return f"{where}{error.strerror or error}{advice}"


OURS = {  # how files begin that an option may replace
    "json_file": rb'\{\s*"schema": \d+,\s*"(model|plan|data)"',
    "predictions": rb'\{"audio_filepath": [^\n]*"pred_text": ',
    "junit": rb"<\?xml [^\n]*\n<testsuites>\s*<testsuite name=.sfm-quant eval",
    "html": rb"(?is)<!doctype html>.{0,500}stablequant report",
}


def _writable(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse a file that cannot be written, or should not be, before the work and not after it."""
    if value == "-" and param.name != "json_file":
        raise click.BadParameter("stdout is for the table or --json; name a file", ctx, param)
    if value and value != "-" and (problem := _not_writable(Path(value), OURS[str(param.name)])):
        raise click.BadParameter(f"{value} {problem}", ctx, param)
    outputs = ctx.meta.setdefault("outputs", {})
    if value and value != "-" and outputs.setdefault(Path(value).resolve(), param) is not param:
        raise click.BadParameter(f"{value} is another option's file; give each its own", ctx, param)
    return value


def _not_writable(path: Path, ours: bytes) -> str | None:
    folder = path.absolute().parent
    if path.is_dir():
        return "is a folder; name a file in it"
    if not folder.is_dir():
        return f"cannot be written: there is no folder {folder}; make it, or name another"
    if not os.access(folder, os.W_OK):
        return "cannot be written; name a file in a folder that you may write to"
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with path.open("rb") as file:
        mine = re.match(ours, file.read(1 << 16))
    return None if mine else "is there already, and not from this command; remove it first, or name another file"


def _scheme(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch("[wW][2-8][aA][2-8]", value):
        raise click.BadParameter(f"{value} is not of the form w8a8, with 2 to 8 bits each", ctx, param)
    return value.lower()


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of points", ctx, param)
    return value


def _refuse_beside_plan(ctx: click.Context) -> None:
    for name in ("scheme", "method", "threshold"):
        if ctx.params["plan"] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is in the plan already; edit it there, or leave out --plan", ctx)


def _refuse_contradictions(ctx: click.Context) -> None:
    """Options of which one would be ignored."""
    limits = [f"--{name.replace('_', '-')}" for name in LIMITS if ctx.params[name] is not None]
    if len(limits) > 1:
        raise click.UsageError(f"give one of {', '.join(limits)}, not several", ctx)
    if limits and not ctx.params["scheme"].startswith("w8"):
        raise click.UsageError(f"{limits[0]} decides the bits of the weights itself; leave them out of --scheme", ctx)
    narrow = limits or ctx.params["plan"] or int(ctx.params["scheme"][1]) <= 4
    if ctx.params["method"] != "stable" and ctx.get_parameter_source("threshold") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--threshold is for --method stable; another decides nothing by it", ctx)
    if not narrow and ctx.get_parameter_source("group_size") is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"--group-size is for 4 bits and fewer, and --scheme is {ctx.params['scheme']}", ctx)


def _example(*lines: str) -> str:
    """Lines for the end of a help text; click leaves them as they are after a backspace."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


COUNT = click.IntRange(min=1)
PATH = NotEmpty()  # nothing else is checked; the shell completes it
data_option = click.option(
    "--data",
    required=True,
    metavar="DATA",
    type=PATH,
    help="Manifest or folder of recordings (`sfm-quant data` tells what is seen in it); - is a manifest on stdin.",
)
samples_option = click.option("--max-samples", type=COUNT, metavar="N", help="Use N utterances, chosen by the seed.")
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the subset and the bootstrap."
)
skip_option = click.option(
    "--skip-bad", is_flag=True, help="Leave out entries and recordings that cannot be used; tell and count them."
)
language_option = click.option(
    "--target-lang", metavar="LANG", help="Language of a model with adapters of languages (MMS), e.g. eng."
)
json_option = click.option(
    "--json", "json_file", metavar="FILE", type=PATH, callback=_writable, help="Write the result as JSON; - is stdout."
)


def run() -> None:
    """`sfm-quant`: the commands, and an interrupt that is neither lost nor answered when the work is done."""
    signals.install()
    _keep_stdout()
    try:
        main(prog_name="sfm-quant")
    except Exception:  # a bug, which must not look like a gate that failed
        traceback.print_exc()
        sys.exit(BUG)
    finally:
        signals.ignore()


def _keep_stdout() -> None:
    """Let only what we print reach stdout: libraries in C print to it as well, into the middle of a JSON."""
    try:
        ours = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # closed, by who starts us; then nothing can be mixed up
        return
    out = sys.stdout
    sys.stdout = io.TextIOWrapper(
        os.fdopen(ours, "wb"),
        encoding=out.encoding,
        errors=out.errors,
        line_buffering=bool(out.line_buffering),
    )


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_example(
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data recordings/ --out w8a8/",
        "sfm-quant eval w8a8/ --data test/ --baseline facebook/wav2vec2-base-960h",
        "sfm-quant transcribe w8a8/ hello.wav",
    ),
)
@click.version_option(package_name="stablequant")
def main() -> None:
    """Quantize speech recognition models to integer kernels, and measure what it cost."""


@main.command(
    epilog=_example(
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data calibration/ --out w8a8/",
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data calibration/ --out edited/ --plan w8a8/plan.json",
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data calibration/ --out small/ --target-compression 8",
    )
)
@click.argument("model", type=PATH)
@data_option
@click.option("--out", required=True, metavar="DIR", type=PATH, help="Folder to write the quantized model to.")
@click.option(
    "--scheme",
    default="w8a8",
    show_default=True,
    callback=_scheme,
    help="Bits of weights and activations, 2 to 8 each.",
)
@click.option(
    "--method",
    type=click.Choice(["stable", "max", "percentile", "mse"]),
    default="stable",
    show_default=True,
    help="How ranges are chosen: mixed layer by layer, or one method for all.",
)
@click.option(
    "--score",
    type=click.Choice(["logits", "wer"]),
    default="logits",
    show_default=True,
    help="What a layer loses, in points: posteriors that differ, or word errors (needs transcripts).",
)
@click.option(
    "--threshold",
    type=float,
    callback=_finite,
    default=0.25,
    show_default=True,
    help="Points a layer may lose alone and still not be selected.",
)
@click.option(
    "--group-size",
    type=GroupSize(),
    default="auto",
    show_default=True,
    help="Weights that share a step, at 4 bits and fewer: 32, 64, 128, or channel for a whole row; auto is 64, and 32 "
    "in a mixed model (at 2 bits only from 3 bits on average).",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "compensated"]),
    help="How weights are rounded.  [default: compensated at 4 bits and fewer, nearest above]",
)
@click.option(
    "--avg-bits", type=click.FloatRange(2, 8), metavar="BITS", help="Mix 8, 4, 3 and 2 bits to this average."
)
@click.option(
    "--target-compression",
    type=click.FloatRange(1, min_open=True),
    metavar="RATIO",
    help="Mix bits until the model is this many times smaller than its parameters in float32.",
)
@click.option(
    "--max-wer-increase",
    type=float,
    metavar="POINTS",
    help="Mix bits to the smallest model that loses no more on held-out recordings of DATA.",
)
@samples_option
@seed_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option(
    "--plan", metavar="PLAN", type=PATH, help="Apply this plan, edited by hand, without a search; a file or folder."
)
@language_option
@skip_option
@json_option
@click.pass_context
def calibrate(ctx: click.Context, json_file: str | None, **options: Any) -> None:
    """Quantize MODEL with the recordings in DATA.

    MODEL is a float model, a folder or a hub id. A few dozen recordings like those to be recognised will do; they need
    no transcripts, but for --score wer and --max-wer-increase.
    """
    _refuse_beside_plan(ctx)
    _refuse_contradictions(ctx)
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # see reproducible.py; it has to be there before torch
    _quiet()
    from ..workflows.calibrate import Options
    from ..workflows.calibrate import calibrate as run

    result = run(Options(**options))
    _deliver(_calibrate_table(result), json.dumps(result, indent=1, allow_nan=False) + "\n", json_file)


@main.command(
    "eval",
    epilog=_example(
        "sfm-quant eval w8a8/ --data test/manifest.jsonl --baseline facebook/wav2vec2-base-960h \\",
        "    --max-wer-increase 0.3 --min-compression 3.5 --json result.json --junit result.xml",
        "sfm-quant eval w8a8/ w6a6/ --data test/ --skip-bad --predictions heard.jsonl",
    ),
)
@click.argument("model", type=PATH)
@click.argument("others", type=PATH, nargs=-1, metavar="[MODEL]...")
@data_option
@click.option("--baseline", metavar="MODEL", type=PATH, help="Model to compare with, usually the float one.")
@click.option("--max-wer-increase", type=float, metavar="POINTS", help="Fail when WER rises by more.")
@click.option("--min-speedup", type=float, metavar="RATIO", help="Fail when the speed-up is lower.")
@click.option(
    "--min-compression",
    type=float,
    metavar="RATIO",
    help="Fail when the model's files are not this many times smaller than the baseline's.",
)
@click.option("--threads", type=COUNT, metavar="N", help="Threads for every model.  [default: torch's choice]")
@click.option(
    "--normalize",
    type=click.Choice(["none", "basic", "english"]),
    default="none",
    show_default=True,
    help="What is done to transcripts before they are compared; english and basic are Whisper's.",
)
@samples_option
@seed_option
@language_option
@skip_option
@json_option
@click.option(
    "--predictions",
    metavar="FILE",
    type=PATH,
    callback=_writable,
    help="Write what was recognised, a JSON line for each utterance, as a manifest.",
)
@click.option(
    "--junit", metavar="FILE", type=PATH, callback=_writable, help="Write a test case for each limit, as JUnit XML."
)
@click.pass_context
def evaluate(
    ctx: click.Context, json_file: str | None, predictions: str | None, junit: str | None, **options: Any
) -> None:
    """Count word errors and measure speed and size.

    MODEL is a folder or a hub id, float or quantized. DATA needs transcripts. Several models are measured in turn on
    the same utterances, and each is held to the limits. Exits with 1 when one is worse than a limit allows. With
    GITHUB_ACTIONS set, as GitHub does, missed limits and warnings are annotations too.
    """
    _quiet()
    from ..evaluation import ci
    from ..evaluation.result import table
    from ..workflows.evaluate import Options
    from ..workflows.evaluate import evaluate as run

    try:
        chosen = Options(**options)
    except InputError as error:
        raise click.UsageError(str(error), ctx) from error
    result = run(chosen)
    annotations = ci.github_annotations(result) if os.environ.get("GITHUB_ACTIONS") else ()
    _deliver(
        "\n".join([table(result), *annotations]),
        result.to_json(),
        json_file,
        {predictions: result.predictions_jsonl, junit: lambda: ci.junit(result)},
    )
    ctx.exit(0 if result.passed else 1)


@main.command(
    epilog=_example(
        "sfm-quant transcribe w8a8/ hello.wav goodbye.flac",
        "sfm-quant transcribe w8a8/ recordings/ --json --words > heard.jsonl",
        "curl -s https://example.org/talk.flac | sfm-quant transcribe w8a8/ -",
    )
)
@click.argument("model", type=PATH)
@click.argument("recordings", nargs=-1, required=True, metavar="AUDIO...", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each: audio_filepath, duration, text.")
@click.option("--words", is_flag=True, help="Add to the JSON when each word begins and ends, in seconds.")
@language_option
@click.pass_context
def transcribe(
    ctx: click.Context,
    model: str,
    recordings: tuple[str, ...],
    as_json: bool,
    words: bool,
    target_lang: str | None,
) -> None:
    """Print what MODEL hears.

    MODEL is a folder or a hub id, float or quantized. AUDIO is files of any length, folders (all recordings in them,
    sorted) or - for a recording on standard input. A line for each recording: its path, a tab and the words. One that
    cannot be read is told on stderr and left out, and the exit code is 3.
    """
    if words and not as_json:
        raise click.UsageError("--words adds to the JSON; add --json", ctx)
    _quiet()
    from ..models.checkpoint import read
    from ..workflows.transcribe import find, transcribe_files

    recognizer = read.load(model, target_lang)
    for remark in recognizer.remarks:
        click.echo(f"Warning: {remark}", err=True)
    paths, unreadable = find(recordings), 0
    for number, (path, heard) in enumerate(transcribe_files(recognizer, paths, words=words), 1):
        if number == len(paths):
            signals.settle()
        if isinstance(heard, InputError):
            unreadable += 1
            click.echo(f"Error: {heard}", err=True)
        else:
            name = path.translate({9: "\\t", 10: "\\n", 13: "\\r"})  # one line for each recording
            line = json.dumps(heard.to_json(), ensure_ascii=False) if as_json else f"{name}\t{heard.text}"
            click.echo(line.encode(errors="backslashreplace"))  # a file name may be no UTF-8
    if unreadable:
        raise InputError(f"{unreadable} of {len(paths)} recordings could not be read")


@main.command(epilog=_example("sfm-quant data test/manifest.jsonl"))
@click.argument("data", metavar="DATA", type=PATH)
@json_option
def data(data: str, json_file: str | None) -> None:
    """Print what is in DATA: its layout, hours, speakers, lengths and problems.

    Exits with 3 when there are problems; what is good is counted all the same.
    """
    from ..speech.data_summary import summary, table

    found = summary(data)
    _deliver(table(found), json.dumps(found, indent=1, allow_nan=False) + "\n", json_file)
    if found["problems"]:
        raise InputError(
            f"{data}: not all of it can be used (problems: {len(found['problems'])}); mend or remove the entries"
        )


@main.command(
    epilog=_example(
        "sfm-quant inspect w8a8/",
        "sfm-quant inspect w8a8/ --html report.html --result result.json --predictions said.jsonl",
    )
)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--html", metavar="FILE", type=PATH, callback=_writable, help="Write a report with plots, one page, and no table."
)
@click.option("--result", metavar="FILE", type=PATH, help="For the report: what `sfm-quant eval --json` wrote.")
@click.option(
    "--predictions", metavar="FILE", type=PATH, help="For the report: what `sfm-quant eval --predictions` wrote."
)
@click.option("--time/--no-time", "timing", default=True, help="For the report: measure where the time goes.")
@click.pass_context
def inspect(ctx: click.Context, folder: str, html: str | None, **report: Any) -> None:
    """Print the plan of a quantized model.

    It tells what was decided for each layer, and why. The report needs the extra `report`.
    """
    from ..report import plan_table

    if not html and (report["result"] or report["predictions"]):
        raise click.UsageError("--result and --predictions go into the report; add --html FILE", ctx)
    if not html:
        _deliver(plan_table(folder))
        return
    _quiet()
    from ..report import page as report_page

    page = report_page.page(folder, **report)
    signals.settle()
    _write(html, page)
    click.echo(f"{html}: written; open it in a browser")


@main.command(epilog=_example("sfm-quant verify w8a8/"))
@click.argument("folder", metavar="DIR", type=PATH)
def verify(folder: str) -> None:
    """Check that a quantized model is whole and agrees with itself.

    Every file but the model card against its checksum; plan, config.json and weights against each other. Prints ok, or
    each problem, and then exits with 3.
    """
    _quiet()
    from ..models.checkpoint.verify import problems

    found = problems(Path(folder))
    _deliver("\n".join(found) or f"{folder}: ok")
    if found:
        raise InputError(f"{folder}: not as it was written (problems: {len(found)}); copy it or calibrate again")


@main.command(epilog=_example("sfm-quant diff w8a8/ edited/plan.json"))
@click.argument("first", metavar="PLAN", type=PATH)
@click.argument("second", metavar="PLAN", type=PATH)
def diff(first: str, second: str) -> None:
    """Explain what two plans decide differently.

    PLAN is a plan.json, or a quantized folder. Layers, sites with other bits, methods or ranges, and sizes.
    """
    from ..quantization.plan.diff import diff_table

    _deliver(diff_table(first, second))


def _quiet() -> None:
    """Keep libraries from talking to users about their own affairs; our warnings become one line on stderr."""
    if sys.flags.optimize > 1:
        raise click.UsageError(
            "python -OO removes docstrings, without which transformers does not load; use -O at most"
        )
    import huggingface_hub
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module="stablequant")
    warnings.showwarning = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)


def _calibrate_table(result: dict[str, Any]) -> str:
    sites = result["sites"]
    clipped = {site["layer"] for site in sites if site.get("clip_percent")}
    held_out = result.get("held_out")
    quantized = sum("reason" not in site for site in sites)  # one that stays in float says why
    before, after = result["bytes_before"], result["bytes_after"]
    return "\n".join(
        [
            f"{result['scheme']}, {result['method']}: {quantized} of {len(sites)} sites quantized",
            f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, {before / after:.2f} times smaller "
            f"({result['bytes_float32'] / after:.2f} times than its parameters in float32)",
            f"layers clipped before the range was chosen: {len(clipped)} of {len({site['layer'] for site in sites})}",
            *([f"on {held_out['words']} held-out words: {held_out['wer_increase']:+.2f} points"] if held_out else []),
            f"score: {result['score']['whole_model']:.2f} {result['score']['unit']}",
            f"{result['float_passes']} float passes, {result['seconds']:.0f} s; plan: {result['plan']}",
        ]
    )


def _deliver(
    table: str,
    result: str = "",
    json_file: str | None = None,
    others: Mapping[str | None, Callable[[], str]] | None = None,
) -> None:
    """Finished work: the JSON first, then the other files, then the table, whatever fails on the way.

    With "-" the JSON goes to stdout and the table to stderr. A file that cannot be written after all (a full disk) is
    an InputError at the end, when everything else is out.
    """
    signals.settle()
    files = {json_file if json_file != "-" else None: lambda: result, **(others or {})}
    failures = [failure for path, content in files.items() if path and (failure := _not_written(path, content))]
    if json_file == "-":
        click.echo(result, nl=False)
    click.echo(table, err=json_file == "-")
    if failures:
        raise InputError("\n".join(failures))


def _not_written(path: str, content: Callable[[], str]) -> str | None:
    """Write a file; the reason where that fails."""
    try:
        _write(path, content())
    except OSError as error:
        return f"{path}: not written; {_system_sentence(error)}"
    return None


def _write(path: str, text: str) -> None:
    """Write beside and rename, so that a file is there whole or not at all."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # half characters stay valid JSON
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
