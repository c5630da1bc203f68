"""The output of a command: its files and its table, without the messages of libraries."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ..foundation import files, interrupts
from ..foundation.errors import InputError
from .click_options import PATH, Command

ADVICE = {
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EACCES: "use a place that you may read and write",
    errno.EPERM: "use a place that you may read and write",
    errno.EROFS: "use a place that you may write to",
}


STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
LONGEST = 235  # bytes of a file's name: it is written under a longer one first


def example(*lines: str) -> str:
    """Lines for the end of a help text; click leaves them as they are after a backspace."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def _writable(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse a file that cannot be written, or exists, before the work and not after it."""
    if value == "-" and param.name != "json_file":
        raise click.BadParameter("stdout is used for the table or --json; pass a file", ctx, param)
    if value in STDOUT and param.name == "json_file":  # fd 1 is stderr by now, for what C code prints
        return "-"
    if value is None or value == "-":
        return value
    if problem := _not_writable(Path(value), force=ctx.meta["force"]):
        raise click.BadParameter(f"{value} {problem}", ctx, param)
    outputs = ctx.meta.setdefault("outputs", {})
    if outputs.setdefault(Path(value).resolve(), param) is not param:
        raise click.BadParameter(f"{value} is also the file of another option; use a different one", ctx, param)
    return value


def _not_writable(path: Path, *, force: bool) -> str | None:
    folder = path.absolute().parent
    if path.is_dir():
        return "is a folder; pass a file in it"
    if not folder.is_dir():
        return f"cannot be written because there is no folder {folder}; create it, or use another"
    if path.exists() and not path.is_file():  # a pipe or device, written to as it is
        return None if os.access(path, os.W_OK) else "cannot be written; name a file"
    if len(os.fsencode(path.name)) > LONGEST:
        return f"has too long a name; use one of at most {LONGEST} bytes"
    if not os.access(folder, os.W_OK):
        return "cannot be written; use a folder that you may write to"
    if path.is_file() and path.stat().st_size and not force:  # an empty one holds nothing to lose
        return "already exists; add --force to replace it, or use another file"
    return None


def output(name: str, help: str, parameter: str | None = None) -> Callable[[Command], Command]:
    """An option that names a file to write, refused before the work where that is not possible."""
    return click.option(name, parameter or name[2:], metavar="FILE", type=PATH, callback=_writable, help=help)


def _allow(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["force"] = value


json_option = output("--json", "Write the result as JSON; - means stdout.", "json_file")
force_option = click.option(  # eager: read before the files that it is about
    "--force",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_allow,
    help="Replace output files that already exist.",
)


def deliver(
    table: str,
    result: str = "",
    json_file: str | None = None,
    others: Mapping[str | None, Callable[[], str]] | None = None,
) -> None:
    """Output finished work: the JSON first, then the other files, then the table, even if one of them fails.

    With "-" the JSON goes to stdout and the table to stderr. A file that cannot be written (a full disk) raises
    InputError at the end, after all other output.
    """
    interrupts.settle()
    contents = {json_file if json_file != "-" else None: lambda: result, **(others or {})}
    failures = [failure for path, content in contents.items() if path and (failure := _not_written(path, content))]
    if json_file == "-":
        click.echo(result, nl=False)
    click.echo(table, err=json_file == "-")
    if failures:
        raise InputError("\n".join(failures))


def _not_written(path: str, content: Callable[[], str]) -> str | None:
    """Write a file; returns the reason if that fails."""
    try:
        files.write(Path(path), content())
    except OSError as error:
        return f"{path}: not written; {system_sentence(error, named=False)}"
    return None


def system_sentence(error: OSError, *, named: bool = True) -> str:
    """What the system refused, for which file, and what helps."""
    where = f"{error.filename}: " if named and error.filename else ""
    if not where and error.errno == errno.ENOENT:
        return "the working directory no longer exists; change to another one"
    advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return f"{where}{error.strerror or error}{advice}"


def quiet() -> None:
    """Silence the messages of libraries; our own warnings become one line on stderr."""
    if sys.flags.optimize > 1:
        raise click.UsageError("python -OO removes docstrings, which transformers needs to load; use at most -O")
    import huggingface_hub
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module="stablequant")
    show: Any = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)  # noqa: E731
    warnings.showwarning = show
