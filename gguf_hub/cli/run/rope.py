"""llama.cpp's flags about the position embedding, for every command that computes."""

from __future__ import annotations

import inspect
from typing import Any

import click

from gguf_hub.cli.options import together
from gguf_hub.run.model.rope import SCALINGS, RopeChange

# types and defaults are those of RopeChange.from_options
_FLAGS = {
    "--rope-scale": "RoPE context scaling factor: expands the context by N.",
    "--rope-freq-base": "RoPE base frequency; 0: the model's.",
    "--rope-freq-scale": "RoPE frequency scaling factor, 1 / N of --rope-scale; 0: the model's.",
    "--yarn-orig-ctx": "YaRN: original context size of the model; 0: the model's.",
    "--yarn-ext-factor": "YaRN: extrapolation mix factor; 0: full interpolation, -1: 1 with yarn.",
    "--yarn-attn-factor": "YaRN: scale of cosine and sine; -1: the model's.",
    "--yarn-beta-slow": "YaRN: high correction dim, or alpha; -1: the model's.",
    "--yarn-beta-fast": "YaRN: low correction dim, or beta; -1: the model's.",
}
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(RopeChange.from_options).parameters.items()
}


def _option(flag: str, text: str) -> Any:
    default = _DEFAULTS[flag.removeprefix("--").replace("-", "_")]
    kind = type(default) if default is not None else float
    return click.option(flag, type=kind, default=default, metavar="N", help=text)


rope_options = together(
    click.option(
        "--rope-scaling",
        type=click.Choice(SCALINGS),
        help="RoPE scaling method; default: the model's, else linear.",
    ),
    *(_option(flag, text) for flag, text in _FLAGS.items()),
)
"""Add the options that ``rope_change`` reads."""


def rope_change(options: dict[str, Any]) -> RopeChange:
    """Return what the flags change in the position embedding.

    Raises:
        UsageError: A value is invalid.
    """
    return RopeChange.from_options(**{name: options[name] for name in _DEFAULTS if name in options})
