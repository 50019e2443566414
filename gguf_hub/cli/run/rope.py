"""llama.cpp's flags about the position embedding, for every command that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.run.model.rope import RopeChange

# flag, value that leaves it to the model, what it does
_FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("--rope-scale", None, "Stretch the context to N times its length."),
    ("--rope-freq-base", 0.0, "Base of the frequencies; 0 for the model's."),
    ("--rope-freq-scale", 0.0, "1 / N of --rope-scale; 0 for the model's."),
    ("--yarn-orig-ctx", 0, "Context trained on, in tokens; 0 for the model's."),
    (
        "--yarn-ext-factor",
        -1.0,
        "How far fast frequencies keep their angle; 0 interpolates all, -1 is 1 with yarn.",
    ),
    ("--yarn-attn-factor", -1.0, "Factor on cosine and sine where that is 0; -1 for the model's."),
    ("--yarn-beta-slow", -1.0, "Turns below which all is interpolated; -1 for the model's."),
    ("--yarn-beta-fast", -1.0, "Turns above which nothing is; -1 for the model's."),
)


rope_options = together(
    click.option(
        "--rope-scaling",
        type=click.Choice(["none", "linear", "yarn"]),
        help="How the context is stretched; as the model says, or linear.",
    ),
    *(
        click.option(
            flag,
            type=int if isinstance(unset, int) else float,
            default=unset,
            metavar="N",
            help=text,
        )
        for flag, unset, text in _FLAGS
    ),
)
"""Add the options that ``rope_change`` reads."""


def rope_change(options: dict[str, Any]) -> RopeChange:
    """Return what the flags want otherwise than the model says.

    Raises:
        UsageError: A value that cannot be.
    """
    from gguf_hub.run.model.rope import RopeChange

    names = ("rope_scaling", *(flag.removeprefix("--").replace("-", "_") for flag, _, _ in _FLAGS))
    return RopeChange.from_options(**{name: options[name] for name in names})
