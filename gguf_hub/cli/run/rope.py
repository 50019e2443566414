"""llama.cpp's flags about the position embedding, for every command that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.run.model.rope import RopeChange

# flag, value that leaves it to the model, what it does
_FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("--rope-scale", None, "RoPE context scaling factor: expands the context by N."),
    ("--rope-freq-base", 0.0, "RoPE base frequency; 0: the model's."),
    (
        "--rope-freq-scale",
        0.0,
        "RoPE frequency scaling factor, 1 / N of --rope-scale; 0: the model's.",
    ),
    ("--yarn-orig-ctx", 0, "YaRN: original context size of the model; 0: the model's."),
    (
        "--yarn-ext-factor",
        -1.0,
        "YaRN: extrapolation mix factor; 0: full interpolation, -1: 1 with yarn.",
    ),
    ("--yarn-attn-factor", -1.0, "YaRN: scale of cosine and sine; -1: the model's."),
    ("--yarn-beta-slow", -1.0, "YaRN: high correction dim, or alpha; -1: the model's."),
    ("--yarn-beta-fast", -1.0, "YaRN: low correction dim, or beta; -1: the model's."),
)


rope_options = together(
    click.option(
        "--rope-scaling",
        type=click.Choice(["none", "linear", "yarn"]),
        help="RoPE scaling method; default: the model's, else linear.",
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
