"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

CONTEXT = {"token_normalize_func": lambda name: name.replace("_", "-")}
"""Underscores equal dashes, as in llama.cpp: ``--repeat_penalty``."""


def together(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Return a decorator that adds options, the first one on top."""

    def add(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def require_at_least(options: Mapping[str, Any], lowest: Mapping[str, int]) -> None:
    """Refuse numbers below their minimum.

    Args:
        options: Parameter -> value.
        lowest: Parameter -> minimum.
    """
    for name, low in lowest.items():
        if options[name] < low:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} {options[name]}: expected {low} or more")


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A size in bytes: ``24GB``, ``24GiB``, or a bare number of gigabytes.

    Args:
        default_unit: What a bare number counts; None to refuse it.
    """

    name = "size"

    def __init__(self, default_unit: str | None = "gb") -> None:
        self._default_unit = default_unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes that the text names.

        Raises:
            UsageError: The text is not a size; the message names the option.
        """
        from gguf_hub.errors import UsageError
        from gguf_hub.units import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value), default_unit=self._default_unit)
        except UsageError as error:
            where = f"`{param.opts[0]}`: " if param else ""
            raise UsageError(f"{where}{error.message}", hint=error.hint) from error


SIZE = Size()

batch_size_option = click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="N",
    help="Maximum batch size in tokens.",
)

special_option = click.option(
    "-sp",
    "--special",
    is_flag=True,
    help="Print control tokens as text; `run`: outside of conversations.",
)

threads_option = click.option(
    "-t",
    "--threads",
    type=click.IntRange(-1),
    default=0,
    metavar="N",
    help="Threads; 0: as many physical cores as help.",
)

catalog_option = click.option(
    "--catalog",
    "catalog_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A catalog of your own (also GGUF_HUB_CATALOG).",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

layout_option = click.option(
    "--layout",
    type=click.Choice(["merged", "split"]),
    default="merged",
    show_default=True,
    help="Expert layout; `split` is for programs of early 2024.",
)

output_options = together(
    click.option("-f", "--force", is_flag=True, help="Overwrite OUT."),
    click.option("--no-progress", is_flag=True, help="Show no progress bar."),
    json_option,
)
"""Options of commands that write one file, OUT."""


def _go_offline(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Set HF_HUB_OFFLINE, for child processes too, until the command ends."""
    if value:
        ctx.call_on_close(partial(_set_offline, os.environ.get("HF_HUB_OFFLINE")))
        _set_offline("1")


def _set_offline(value: str | None) -> None:
    if value is None:
        os.environ.pop("HF_HUB_OFFLINE", None)
    else:
        os.environ["HF_HUB_OFFLINE"] = value


offline_option = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_go_offline,
    help="Make no network requests; missing files are reported (also HF_HUB_OFFLINE=1).",
)

progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "json", "none"]),
    default="auto",
    show_default=True,
    help="auto: bars on a terminal; json: one event per line on stderr; none.",
)
no_progress_option = click.option(
    "--no-progress", "progress", flag_value="none", help="Same as --progress none."
)
