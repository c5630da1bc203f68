"""The command line: parse, call, print. Results for people go to stdout, progress and logs to stderr.

Exit codes: 0 done, 1 a gate failed, 2 usage, 3 a model, data or disk that cannot be used, 70 a bug, 130 and 143
interrupted. Torch and transformers are imported inside the commands, so that --help is fast.
"""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Any

import click

from ..foundation import files, interrupts
from ..foundation.errors import InputError
from .calibrate import calibrate
from .evaluate import evaluate
from .inspect import data, diff, inspect, verify
from .outputs import example, system_sentence
from .transcribe import transcribe
from .tune import tune

BUG = 70  # EX_SOFTWARE of sysexits.h
RESUMED = "; run the same command with --resume to continue"
ADVICE_TO_RESUME = {"calibrate": RESUMED, "tune": RESUMED}


class Failure(click.ClickException):
    """Bad input, reported in one sentence."""

    exit_code = 3


class Commands(click.Group):
    """Turns errors that users can fix into one sentence and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self._invoke(ctx)
        except InputError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has gone; click ends quietly
                raise
            raise Failure(system_sentence(error)) from error
        except KeyboardInterrupt as interrupt:
            interrupts.close()
            click.echo(f"Interrupted{ADVICE_TO_RESUME.get(str(ctx.invoked_subcommand), '')}.", err=True)
            ctx.exit(interrupts.exit_code(interrupt))

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            interrupts.start()
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception:  # a library may have turned an interrupt into it
            interrupts.settle()
            raise
        finally:
            interrupts.close()
            if progress := sys.modules.get("stablequant.foundation.progress"):
                progress.close()


def run() -> None:
    """`sfm-quant`: run the commands; an interrupt is never lost, and never stops finished work."""
    interrupts.install()
    files.keep_stdout()
    try:
        main(prog_name="sfm-quant")
    except Exception:  # a bug, which must not look like a gate that failed
        traceback.print_exc()
        sys.exit(BUG)
    finally:
        interrupts.ignore()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example(
        "sfm-quant calibrate facebook/wav2vec2-base-960h --data recordings/ --out w8a8/",
        "sfm-quant eval w8a8/ --data test/ --baseline facebook/wav2vec2-base-960h",
        "sfm-quant transcribe w8a8/ hello.wav",
    ),
)
@click.version_option(package_name="stablequant")
def main() -> None:
    """Quantize speech recognition models to integers, and measure the result."""


for command in (calibrate, tune, evaluate, transcribe, data, inspect, verify, diff):
    main.add_command(command)
