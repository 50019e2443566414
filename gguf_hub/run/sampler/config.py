"""What can be set about sampling: llama.cpp's names, defaults and order.

Source: llama.cpp, common/common.h ``common_params_sampling`` and tools/completion/README.md.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gguf_hub.errors import UsageError

SAMPLERS = {
    "penalties": "e", "dry": "d", "top_n_sigma": "s", "top_k": "k", "typ_p": "y", "top_p": "p",
    "min_p": "m", "xtc": "x", "temperature": "t",
}  # fmt: skip
"""Steps of the chain in llama.cpp's order, each with its letter."""

_ALIASES = {
    "top-k": "top_k", "top-p": "top_p", "nucleus": "top_p", "min-p": "min_p", "typical": "typ_p",
    "typical-p": "typ_p", "typical_p": "typ_p", "typ-p": "typ_p", "typ": "typ_p",
    "temp": "temperature", "top-n-sigma": "top_n_sigma", "top_nsigma": "top_n_sigma",
}  # fmt: skip

_SEED_LIMIT = 2**32

# option -> its interval; ends are included unless the bracket says otherwise
_INTERVALS = {
    "seed": (-1, _SEED_LIMIT - 1), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1),
    "xtc_probability": (0, 1), "xtc_threshold": (0, 1), "repeat_last_n": (-1, math.inf),
    "dry_multiplier": (0, math.inf), "dry_base": (0, math.inf),
    "dry_allowed_length": (0, math.inf), "dry_penalty_last_n": (-1, math.inf),
    "dynatemp_range": (0, math.inf), "dynatemp_exponent": (0, math.inf), "mirostat": (0, 2),
    "mirostat_tau": (0, math.inf), "mirostat_eta": (0, math.inf),
    "min_keep": (0, math.inf), "temp": (-math.inf, math.inf), "top_k": (-math.inf, math.inf),
    "top_n_sigma": (-math.inf, math.inf), "presence_penalty": (-math.inf, math.inf),
    "frequency_penalty": (-math.inf, math.inf), "repeat_penalty": (0, math.inf),
}  # fmt: skip
_INTEGERS = {"seed", "top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n",
             "mirostat", "min_keep"}  # fmt: skip


_ABOVE = {"repeat_penalty"}
"""Options that must be above the lower end of their interval: logits are divided by this one."""


@dataclass(frozen=True)
class SamplerConfig:
    """Settings of one sampler; a value that switches its step off stands beside it."""

    seed: int = -1
    """-1: random."""
    temp: float = 0.8
    """At most 0: the most likely token, always."""
    top_k: int = 40
    """At most 0: off."""
    top_p: float = 0.95
    """1: off."""
    min_p: float = 0.05
    """0: off."""
    typical_p: float = 1.0
    """1: off."""
    top_n_sigma: float = -1.0
    """At most 0: off."""
    repeat_penalty: float = 1.0
    """1: off."""
    repeat_last_n: int = 64
    """How many tokens back penalties look; 0: off, -1: all."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> what is added to its logit, before anything else; -inf bans it."""
    xtc_probability: float = 0.0
    """0: off."""
    xtc_threshold: float = 0.1
    """Over 0.5: off."""
    dry_multiplier: float = 0.0
    """0: off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    """How many tokens back DRY looks; 0: off, -1: all."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    dynatemp_range: float = 0.0
    """0: off."""
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    """1 or 2 replace every step but temperature."""
    mirostat_tau: float = 5.0
    """Surprise to aim at, in bits (llama.cpp: --mirostat-ent)."""
    mirostat_eta: float = 0.1
    """How fast to correct (llama.cpp: --mirostat-lr)."""
    min_keep: int = 0
    """Candidates that top-p, min-p, typical-p and XTC leave at least."""
    samplers: tuple[str, ...] = tuple(SAMPLERS)

    @classmethod
    def from_options(cls, **options: Any) -> SamplerConfig:
        """Return checked settings.

        Args:
            options: Values by the names above, None for the default. ``samplers`` may also be
                text: ``"top_k;top_p;temperature"`` or letters, ``"kpt"``.

        Raises:
            UsageError: An option has no such name or its value is out of its interval.
        """
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise UsageError(
                f"no sampling option `{unknown[0]}`",
                hint=f"did you mean `{near[0]}`?" if near else None,
            )
        values = {name: value for name, value in options.items() if value is not None}
        if isinstance(values.get("samplers"), str):
            values["samplers"] = parse_samplers(values["samplers"])
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Raise a UsageError that quotes interval and value if a value is out of its interval."""
        for name, (low, high) in _INTERVALS.items():
            _check_number(name, getattr(self, name), low, high)
        for name in self.samplers:
            if name not in SAMPLERS:
                raise _unknown_sampler(name)
        for token_id, bias in self.logit_bias.items():
            if token_id < 0 or math.isnan(bias) or bias == math.inf:
                raise UsageError(
                    f"logit_bias: expected token id >= 0 and bias in [-inf, inf), "
                    f"found {token_id}: {bias}"
                )

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temp <= 0 and self.dynatemp_range <= 0


def parse_samplers(text: str) -> tuple[str, ...]:
    """Return the steps that ``text`` names, in its order.

    Args:
        text: Names with ``;`` between them, or one letter for each step: ``"edskypmxt"``.

    Raises:
        UsageError: A name or letter means no step.
    """
    text = text.strip()
    word = text.lower()
    if ";" in word or word in SAMPLERS or word in _ALIASES:
        words = [part.strip() for part in word.split(";") if part.strip()]
        names = [_ALIASES.get(part, part) for part in words]
    else:
        by_letter = {letter: name for name, letter in SAMPLERS.items()}
        names = [by_letter.get(letter, letter) for letter in text]
    for name in names:
        if name not in SAMPLERS:
            raise _unknown_sampler(name)
    return tuple(names)


def _unknown_sampler(name: str) -> UsageError:
    letters = "".join(SAMPLERS.values())
    return UsageError(
        f"samplers: no step `{name}`",
        hint=f"steps are {', '.join(SAMPLERS)}; or letters of {letters}",
    )


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise unless ``value`` is a number in ``[low, high]``; infinite ends are left out."""
    is_integer = name in _INTEGERS
    kind = int if is_integer else (int, float)
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    is_open = name in _ABOVE or low == -math.inf
    is_inside = is_number and low <= value <= high and not math.isinf(value)
    if is_inside and not (is_open and value == low):
        return
    lower = f"{'(' if is_open else '['}{low:g}"
    upper = "inf)" if high == math.inf else f"{high}]"
    noun = "a whole number in " if is_integer else "" if is_number else "a number in "
    hint = "1 switches it off" if name == "repeat_penalty" else None
    found = value if is_number else repr(value)
    raise UsageError(f"{name}: expected {noun}{lower}, {upper}, found {found}", hint=hint)
