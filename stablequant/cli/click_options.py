"""Make the arguments and options of a command from a dataclass of options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_type_hints

import click
from click.core import ParameterSource

from ..foundation.errors import InputError
from ..foundation.options import Options, allowed, flag

Command = Callable[..., Any]
NUMBERS: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT}


class NotEmpty(click.Path):
    """A path; an empty one is usually an unset shell variable, and would mean the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("", b""):
            self.fail("an empty path; is a shell variable not set?", param, ctx)
        return super().convert(value, param, ctx)


class OneOf(click.Choice):
    """One of a few names; its value is what the name stands for."""

    def __init__(self, of: Field[Any]) -> None:
        self.values = allowed(of)
        super().__init__(list(self.values))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.values[super().convert(value, param, ctx)]


PATH = NotEmpty()  # nothing else is checked; the shell completes it


def takes(options: type[Options]) -> Callable[[Command], Command]:
    """Add the arguments and options of a dataclass to a command, which is called with a checked instance."""
    declared: Any = options
    hints = get_type_hints(options)

    def decorate(run: Command) -> Command:
        @functools.wraps(run)
        @click.pass_context
        def command(ctx: click.Context, /, **values: Any) -> Any:
            own = {each.name: values.pop(each.name) for each in fields(declared)}
            return run(_made(ctx, options, own), **values)

        decorated: Command = command
        for each in reversed(fields(declared)):
            decorated = _parameter(each, hints[each.name])(decorated)
        return decorated

    return decorate


def _made(ctx: click.Context, options: type[Options], values: dict[str, Any]) -> Options:
    """The checked options; a problem with them is a usage error."""
    typed = {name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    try:
        made = options(**values)
        made.refuse_ignored(typed)
    except InputError as error:
        raise click.UsageError(str(error), ctx) from error
    return made


def _parameter(of: Field[Any], hint: Any) -> Callable[[Command], Command]:
    shown, required = of.metadata, of.default is MISSING
    kinds = get_args(hint) or (hint,)
    if shown.get("argument"):
        nargs = -1 if Ellipsis in kinds else 1
        return click.argument(of.name, type=PATH, nargs=nargs, required=required, metavar=shown.get("metavar"))
    if bool in kinds:
        return click.option(
            shown.get("flag", flag(of.name)), of.name, default=of.default, is_flag=True, help=shown["help"]
        )
    default = {"required": True} if required else {"default": of.default}
    return click.option(
        shown.get("flag", flag(of.name)),
        of.name,
        type=_type(of, kinds),
        **default,
        show_default=isinstance(of.default, (str, int, float)),
        metavar=shown.get("metavar"),
        help=shown["help"],
    )


def _type(of: Field[Any], kinds: tuple[Any, ...]) -> click.ParamType[Any]:
    if allowed(of):
        return OneOf(of)
    if of.metadata.get("path"):
        return PATH
    return next((NUMBERS[each] for each in kinds if each in NUMBERS), click.STRING)
