"""llama.cpp's flags about what happens when the context is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option("--context-shift/--no-context-shift", default=False, show_default=True,
                 help="When the context is full, forget half of it and go on, or stop."),
    click.option("--keep", default=0, show_default=True, metavar="N",
                 help="Prompt tokens that are never forgotten; -1 for all of them."),
)  # fmt: skip


def shifting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that ``n_keep`` reads."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def n_keep(options: dict[str, Any]) -> int | None:
    """Return how many tokens of the prompt to keep, -1 for all; None to stop at a full context.

    Raises:
        UsageError: A number that cannot be.
    """
    keep: int = options["keep"]
    if keep < -1:
        raise click.UsageError(f"--keep {keep}: expected -1 (the whole prompt) or more")
    return keep if options["context_shift"] else None
