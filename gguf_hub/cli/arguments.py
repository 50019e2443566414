"""Arguments before click reads them: flags of several letters are one flag, never several.

click takes ``-fa on``, where there is no ``-fa``, for ``-f`` with the value ``a``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence

import click

_NUMBER = re.compile(r"-?\.?\d[\d.e+-]*")
_WORD = re.compile("[a-z]+")


def read_arguments(command: click.Command, ctx: click.Context, args: Sequence[str]) -> list[str]:
    """Return the arguments with the default value after each flag that may come without one.

    Args:
        command: The command that they are for.
        ctx: Its context.
        args: Arguments behind the command's name.

    Raises:
        UsageError: A flag is unknown.
    """
    options = {
        _normal(name, ctx): option
        for option in command.get_params(ctx)
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }
    rest, found = deque(args), list[str]()
    while rest and rest[0] != "--":
        arg = rest.popleft()
        found.append(arg)
        if len(arg) < 2 or not arg.startswith("-"):
            continue
        name, equals, _ = arg.partition("=")
        option = options.get(_normal(name, ctx))
        if option is None:
            _check_attached_number(arg, options, ctx)
        elif not equals:
            found += _value_of(option, rest)
    return [*found, *rest]


def _normal(name: str, ctx: click.Context) -> str:
    """Return a flag as click compares it."""
    letters = name.lstrip("-")
    change = ctx.token_normalize_func
    return name[: len(name) - len(letters)] + (change(letters) if change else letters)


def _value_of(option: click.Option, rest: deque[str]) -> list[str]:
    """Take the value of an option from the arguments after it."""
    if option.is_flag or option.count:
        return []
    if isinstance(option.type, click.Choice) and isinstance(option.flag_value, str):
        # a word that is no choice is an error rather than a model or a prompt
        if rest and (rest[0].lower() in option.type.choices or _WORD.fullmatch(rest[0])):
            return [rest.popleft()]
        return [str(option.flag_value)]
    return [rest.popleft() for _ in range(min(option.nargs, len(rest)))]


def _check_attached_number(
    arg: str, options: Mapping[str, click.Option], ctx: click.Context
) -> None:
    """Refuse an unknown flag; ``-n8`` is ``-n 8``."""
    short = options.get(arg[:2])
    takes_value = short is not None and not short.is_flag and not short.count
    if takes_value and _NUMBER.fullmatch(arg[2:]):
        return
    from gguf_hub.cli.compatibility import refusal
    from gguf_hub.cli.console import near
    from gguf_hub.errors import UsageError

    flag = _normal(arg.partition("=")[0], ctx)
    instead = refusal(ctx.info_name or "", flag)
    usage = f"`{ctx.command_path} --help` shows the usage"
    visible = [name for name, option in options.items() if not option.hidden]
    similar = "" if instead or len(flag) < 4 else near(flag, visible)
    raise UsageError(f"no such option `{flag}`{similar}", hint=instead or usage)
