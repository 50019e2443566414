"""llama.cpp's sampling flags, for every command that generates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gguf_hub.cli.options import together

# (flags, type, what it does); the value goes to SamplerConfig under the long flag's name, or under
# the name given last, and its default is SamplerConfig's
_FLAGS: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("-s", "--seed"), int, "RNG seed; -1: random."),
    (("--temp", "--temperature"), float, "Temperature; 0: greedy."),
    (("--top-k",), int, "Top-k sampling; 0: off."),
    (("--top-p",), float, "Top-p (nucleus) sampling; 1: off."),
    (("--min-p",), float, "Min-p sampling; 0: off."),
    (("--typical", "--typical-p", "typical_p"), float, "Locally typical sampling; 1: off."),
    (("--top-n-sigma", "--top-nsigma"), float, "Top-n-sigma sampling; -1: off."),
    (("--repeat-penalty",), float, "Penalty for repeated tokens; 1: off."),
    (("--repeat-last-n",), int, "Last n tokens to consider for penalties; -1: all."),
    (("--presence-penalty",), float, "Presence penalty; 0: off."),
    (("--frequency-penalty",), float, "Frequency penalty; 0: off."),
    (("--xtc-probability",), float, "XTC probability; 0: off."),
    (("--xtc-threshold",), float, "XTC threshold."),
    (("--dry-multiplier",), float, "DRY multiplier; 0: off."),
    (("--dry-base",), float, "DRY base."),
    (("--dry-allowed-length",), int, "Repetition length that DRY allows."),
    (("--dry-penalty-last-n",), int, "Last n tokens that DRY considers; -1: all."),
    (("--dynatemp-range",), float, "Dynamic temperature range; 0: off."),
    (("--dynatemp-exp", "dynatemp_exponent"), float, "Dynamic temperature exponent."),
    (("--mirostat",), int, "Mirostat version 1 or 2; 0: off."),
    (("--mirostat-ent", "mirostat_tau"), float, "Mirostat target entropy (tau)."),
    (("--mirostat-lr", "mirostat_eta"), float, "Mirostat learning rate (eta)."),
    (
        ("--samplers", "--sampling-seq", "--sampler-seq", "samplers"),
        str,
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
        self.names = [*(_parameter(flags) for flags, _, _ in _FLAGS), _BREAKERS]

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return together(
            *(
                click.option(*flags, type=kind, default=None, help=text)
                for flags, kind, text in _FLAGS
            ),
            _breaker_option,
        )(function)


def _parameter(flags: tuple[str, ...]) -> str:
    """Return the name of the parameter that click makes of a flag."""
    long = [flag for flag in flags if not flag.startswith("-")] or [
        flag for flag in flags if flag.startswith("--")
    ]
    return long[0].lstrip("-").replace("-", "_")


sampling_options = _SamplingOptions()
