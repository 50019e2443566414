"""llama.cpp's flags for a full context."""

from __future__ import annotations

from typing import Any

import click

from gguf_hub.cli.options import together

shifting_options = together(
    click.option("--context-shift/--no-context-shift", default=False, show_default=True,
                 help="When the context is full, discard half of it and continue, or stop."),
    click.option("--keep", default=0, show_default=True, metavar="N",
                 help="Prompt tokens to keep on a context shift; -1: all."),
)  # fmt: skip
"""Add the options that ``n_keep`` reads."""


def n_keep(options: dict[str, Any]) -> int | None:
    """Return how many tokens of the prompt to keep, -1 for all; None to stop at a full context.

    Raises:
        UsageError: --keep is less than -1.
    """
    keep: int = options["keep"]
    if keep < -1:
        raise click.UsageError(f"--keep {keep}: expected -1 (the whole prompt) or more")
    return keep if options["context_shift"] else None
