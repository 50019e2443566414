"""llama.cpp's sampling flags, for every command that generates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from gguf_hub.cli.options import together
from gguf_hub.run.sampler import SamplerConfig

# (flags, what it does); type and default are those of SamplerConfig under the long flag's name, or
# under the name given last
_FLAGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("-s", "--seed"), "RNG seed; -1: random."),
    (("--temp", "--temperature"), "Temperature; 0: greedy."),
    (("--top-k",), "Top-k sampling; 0: off."),
    (("--top-p",), "Top-p (nucleus) sampling; 1: off."),
    (("--min-p",), "Min-p sampling; 0: off."),
    (("--typical", "--typical-p", "typical_p"), "Locally typical sampling; 1: off."),
    (("--top-n-sigma", "--top-nsigma"), "Top-n-sigma sampling; -1: off."),
    (("--repeat-penalty",), "Penalty for repeated tokens; 1: off."),
    (("--repeat-last-n",), "Last n tokens to consider for penalties; -1: all."),
    (("--presence-penalty",), "Presence penalty; 0: off."),
    (("--frequency-penalty",), "Frequency penalty; 0: off."),
    (("--xtc-probability",), "XTC probability; 0: off."),
    (("--xtc-threshold",), "XTC threshold."),
    (("--dry-multiplier",), "DRY multiplier; 0: off."),
    (("--dry-base",), "DRY base."),
    (("--dry-allowed-length",), "Repetition length that DRY allows."),
    (("--dry-penalty-last-n",), "Last n tokens that DRY considers; -1: all."),
    (("--dynatemp-range",), "Dynamic temperature range; 0: off."),
    (("--dynatemp-exp", "dynatemp_exponent"), "Dynamic temperature exponent."),
    (("--mirostat",), "Mirostat version 1 or 2; 0: off."),
    (("--mirostat-ent", "mirostat_tau"), "Mirostat target entropy (tau)."),
    (("--mirostat-lr", "mirostat_eta"), "Mirostat learning rate (eta)."),
    (
        ("--samplers", "--sampling-seq", "--sampler-seq", "samplers"),
        "Sampler order, as `top_k;top_p;temperature` or in letters, `kpt`.",
    ),
)


_BREAKERS = "dry_sequence_breakers"


def _read_breakers(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Return DRY's sequence breakers, None for the default ones."""
    from gguf_hub.cli.run.prompt import unescape

    return tuple(unescape(text) for text in texts if text != "none") if texts else None


_breaker_option = click.option(
    "--dry-sequence-breaker",
    _BREAKERS,
    multiple=True,
    metavar="TEXT",
    callback=_read_breakers,
    help="DRY sequence breaker, replacing newline, colon, quote and asterisk; `none` for no "
    "breaker.",
)


class _SamplingOptions:
    """A decorator that adds the flags; ``names`` are the parameters that it adds."""

    def __init__(self) -> None:
        self.names = [*(_parameter(flags) for flags, _ in _FLAGS), _BREAKERS]

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        add: Callable[[Callable[..., Any]], Callable[..., Any]] = together(
            *(_option(flags, text) for flags, text in _FLAGS), _breaker_option
        )
        return add(function)

    def settings(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the flags on the command line."""
        return {name: options[name] for name in self.names if options[name] is not None}


def _option(flags: tuple[str, ...], text: str) -> Callable[..., Any]:
    """Return the option of a setting; None where it is not on the command line."""
    default = _DEFAULTS[_parameter(flags)]
    if isinstance(default, tuple):
        return click.option(*flags, help=text)
    return click.option(
        *flags, type=type(default), help=f"{text}  [default: {default:g}]", metavar="N"
    )


_DEFAULTS = {field.name: field.default for field in fields(SamplerConfig)}


def _parameter(flags: tuple[str, ...]) -> str:
    """Return the name of the parameter that click makes of a flag."""
    names = [flag for flag in flags if not flag.startswith("-")] or [
        flag for flag in flags if flag.startswith("--")
    ]
    return names[0].lstrip("-").replace("-", "_")


sampling_options = _SamplingOptions()
