"""Preprocessing of arguments for click: a flag of several letters is never several flags.

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
        command: The command.
        ctx: Its context.
        args: Arguments after the command's name.

    Raises:
        UsageError: A flag is unknown.
    """
    options = {
        _normalize(name, ctx): option
        for option in command.get_params(ctx)
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }
    remaining, arguments = deque(args), list[str]()
    while remaining and remaining[0] != "--":
        arg = remaining.popleft()
        arguments.append(arg)
        if len(arg) < 2 or not arg.startswith("-"):
            continue
        name, equals, _ = arg.partition("=")
        option = options.get(_normalize(name, ctx))
        if option is None:
            _check_attached_number(arg, options, ctx)
        elif not equals:
            arguments += _pop_value(option, remaining)
    return [*arguments, *remaining]


def _normalize(name: str, ctx: click.Context) -> str:
    letters = name.lstrip("-")
    change = ctx.token_normalize_func
    return name[: len(name) - len(letters)] + (change(letters) if change else letters)


def _pop_value(option: click.Option, remaining: deque[str]) -> list[str]:
    if option.is_flag or option.count:
        return []
    if isinstance(option.type, click.Choice) and isinstance(option.flag_value, str):
        # a word that is no choice is an error rather than a model or a prompt
        if remaining and (
            remaining[0].lower() in option.type.choices or _WORD.fullmatch(remaining[0])
        ):
            return [remaining.popleft()]
        return [str(option.flag_value)]
    return [remaining.popleft() for _ in range(min(option.nargs, len(remaining)))]


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

    flag = _normalize(arg.partition("=")[0], ctx)
    instead = refusal(ctx.info_name or "", flag)
    usage = f"`{ctx.command_path} --help` shows the usage"
    names = [name for name, option in options.items() if not option.hidden]
    similar = "" if instead or len(flag) < 4 else near(flag, names)
    raise UsageError(f"no such option `{flag}`{similar}", hint=instead or usage)
