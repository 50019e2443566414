"""llama.cpp's sampling flags, for every command that generates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gguf_hub.cli.options import together

# (flags, type, what it does); the value goes to SamplerConfig under the long flag's name, or under
# the name given last, and its default is SamplerConfig's
_FLAGS: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("-s", "--seed"), int, "Seed; -1 for another one each time."),
    (("--temp", "--temperature"), float, "Temperature; 0 takes the most likely token."),
    (("--top-k",), int, "Keep the k most likely tokens; 0 is off."),
    (("--top-p",), float, "Keep the most likely tokens up to this probability; 1 is off."),
    (("--min-p",), float, "Drop tokens less likely than this times the most likely; 0 is off."),
    (("--typical", "--typical-p", "typical_p"), float, "Locally typical sampling; 1 is off."),
    (("--top-n-sigma", "--top-nsigma"), float, "Keep logits within n sigma; -1 is off."),
    (("--repeat-penalty",), float, "Divide logits of recent tokens; 1 is off."),
    (("--repeat-last-n",), int, "How far back penalties look; -1 is all."),
    (("--presence-penalty",), float, "Taken off logits of recent tokens."),
    (("--frequency-penalty",), float, "Taken off for each recent occurrence."),
    (("--xtc-probability",), float, "How often XTC drops the top choices."),
    (("--xtc-threshold",), float, "What XTC counts as a top choice."),
    (("--dry-multiplier",), float, "Strength of the DRY penalty; 0 is off."),
    (("--dry-base",), float, "Base of the DRY penalty."),
    (("--dry-allowed-length",), int, "Repetitions that DRY lets pass."),
    (("--dry-penalty-last-n",), int, "How far back DRY looks; -1 is all."),
    (("--dynatemp-range",), float, "Temperature may vary by this; 0 is off."),
    (("--dynatemp-exp", "dynatemp_exponent"), float, "Exponent of the varying temperature."),
    (("--mirostat",), int, "Mirostat 1 or 2; 0 is off."),
    (("--mirostat-ent", "mirostat_tau"), float, "Mirostat's target entropy, tau."),
    (("--mirostat-lr", "mirostat_eta"), float, "Mirostat's learning rate, eta."),
    (
        ("--samplers", "--sampling-seq", "--sampler-seq", "samplers"),
        str,
        "Order of the samplers, as `top_k;top_p;temperature` or in letters, `kpt`.",
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
    help="Where DRY's repetitions end, instead of newline, colon, quote and asterisk; `none`.",
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
