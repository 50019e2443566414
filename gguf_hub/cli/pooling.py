"""How texts become vectors: the options of ``serve`` and ``embed``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gguf_hub.cli.options import together

pooling_options = together(
    click.option("--pooling", type=click.Choice(["none", "mean", "cls", "last", "rank"]),
                 help="How to pool vectors of tokens, `rank` for a reranker's scores; default: as "
                      "the file says."),
    click.option("--embd-normalize", default=2, show_default=True, metavar="N",
                 help="Norm by which vectors have length 1: -1: none, 0: largest number 32760, "
                      "1: taxicab, 2: Euclidean, more: p-norm."),
)  # fmt: skip
"""Add the options that ``pooling_settings`` reads."""


def pooling_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``pooling`` and ``norm`` of the options; ``reranking`` may be one of them.

    Raises:
        UsageError: There is no such norm, or ``--reranking`` meets another pooling type.
    """
    from gguf_hub.run.generation.pooling import Pooling, check_norm

    word = options["pooling"]
    if options.get("reranking"):
        if word not in (None, "rank"):
            raise click.UsageError(f"--reranking and --pooling {word} exclude each other")
        word = "rank"
    pooling = Pooling[word.upper()] if word else Pooling.UNSPECIFIED
    return {"pooling": pooling, "norm": check_norm(options["embd_normalize"], "--embd-normalize")}
