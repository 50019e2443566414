"""Rotary position embedding: the angles of a model, and what a caller wants otherwise.

Knows formulas and llama.cpp's names for their settings; knows nothing of files or tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from gguf_hub.errors import UsageError

SCALINGS = ("none", "linear", "yarn")
"""Ways of stretching to longer contexts."""

_MOST = 1e12  # more than any setting makes sense with, and no trouble for float32


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (arXiv 2104.09864) and its stretching to longer contexts.

    Attributes:
        n_rot: Rotated elements of each head.
        freq_base: Base of the geometric series of frequencies.
        scaling: ``none``, ``linear`` (arXiv 2306.15595) or ``yarn`` (arXiv 2309.00071).
        factor: How many times longer the context is than the one trained on; 1 stretches nothing.
        n_ctx_orig: Context that the model was trained on before stretching.
        attn_factor: Extra factor on cosine and sine.
        yarn_attn_factor: Another one, where no frequency keeps its plain angle (``mix`` is 0).
        ext_factor: How far fast frequencies keep their plain angle; negative for what the scaling
            implies, see ``mix``.
        beta_fast: Turns within ``n_ctx_orig`` above which a frequency is left alone (yarn).
        beta_slow: Turns below which a frequency is interpolated fully (yarn).
    """

    n_rot: int
    freq_base: float
    scaling: str = "linear"
    factor: float = 1.0
    n_ctx_orig: int = 0
    attn_factor: float = 1.0
    yarn_attn_factor: float = 1.0
    ext_factor: float = -1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    @property
    def stretch(self) -> float:
        """The factor that is in force."""
        return 1.0 if self.scaling == "none" else self.factor

    @property
    def mix(self) -> float:
        """How far the fastest frequencies keep their plain angle: 1 for yarn, else 0, or as set."""
        if self.ext_factor >= 0:
            return self.ext_factor
        return 1.0 if self.scaling == "yarn" else 0.0

    def frequencies(self) -> list[float]:
        """Return the angle per position of each rotated pair, [n_rot / 2].

        Source: rope_yarn in ggml/src/ggml-cpu/ops.cpp at ggml c2cdd2b2; its interpolation between
        stretched and plain angle is linear in the position, so it is done here once.
        """
        plain = [self.freq_base ** (-2 * i / self.n_rot) for i in range(self.n_rot // 2)]
        if self.mix == 0:
            return [frequency / self.stretch for frequency in plain]
        shares = [self.mix * self._plain_share(i) for i in range(self.n_rot // 2)]
        return [
            frequency * (share + (1 - share) / self.stretch)
            for frequency, share in zip(plain, shares, strict=True)
        ]

    def magnitude(self) -> float:
        """Return the factor on cosine and sine; yarn raises it to keep attention's entropy.

        Source: the constructor in src/llama-context.cpp of llama.cpp with pull request 17945,
        and rope_yarn: with a mix, what yarn implies takes the place of ``yarn_attn_factor``.
        """
        if self.mix == 0:
            return self.attn_factor * self.yarn_attn_factor
        return self.attn_factor * (1 + 0.1 * math.log(max(1.0, self.stretch)))

    def changed(self, change: RopeChange) -> RopeConfig:
        """Return this with what a caller wants otherwise."""
        given = {name: value for name, value in vars(change).items() if value is not None}
        return replace(self, **given)

    def _plain_share(self, pair: int) -> float:
        """Return how far a pair keeps its plain angle: 1 for fast pairs, 0 for slow ones."""
        low = max(0, math.floor(self._pair_with(self.beta_fast)))
        high = min(self.n_rot - 1, math.ceil(self._pair_with(self.beta_slow)))
        ramp = (pair - low) / max(0.001, high - low)
        return 1 - min(1.0, max(0.0, ramp))

    def _pair_with(self, turns: float) -> float:
        """Return the pair that makes so many turns within the original context."""
        period = math.log(self.n_ctx_orig) - math.log(turns) - math.log(2 * math.pi)
        return self.n_rot * period / (2 * math.log(self.freq_base))


@dataclass(frozen=True)
class RopeChange:
    """What a caller wants otherwise than the model says; None for the model's own value.

    Attributes are those of ``RopeConfig``.
    """

    scaling: str | None = None
    freq_base: float | None = None
    factor: float | None = None
    n_ctx_orig: int | None = None
    yarn_attn_factor: float | None = None
    ext_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    @classmethod
    def from_options(
        cls,
        *,
        rope_scaling: str | None = None,
        rope_scale: float | None = None,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_orig_ctx: int = 0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = -1.0,
        yarn_beta_slow: float = -1.0,
        yarn_beta_fast: float = -1.0,
    ) -> RopeChange:
        """Return checked settings, given llama.cpp's options.

        Args:
            rope_scaling: ``none``, ``linear`` or ``yarn``; None for the model's.
            rope_scale: How many times longer the context becomes; None for the model's.
            rope_freq_base: Base of the frequencies; 0 for the model's.
            rope_freq_scale: 1 / rope_scale; 0 for the model's.
            yarn_orig_ctx: Context trained on, in tokens; 0 for the model's.
            yarn_ext_factor: How far fast frequencies keep their angle: 0 for full interpolation,
                negative for the model's, or 1 with yarn and 0 without.
            yarn_attn_factor: Factor on cosine and sine where the former is 0; negative for the
                model's.
            yarn_beta_slow: Turns below which a frequency is interpolated fully; negative for the
                model's.
            yarn_beta_fast: Turns above which it is left alone; negative for the model's.

        Raises:
            UsageError: A value that cannot be, or two that say the same.
        """
        if rope_scaling not in (None, *SCALINGS):
            raise UsageError(
                f"rope_scaling: expected {', '.join(SCALINGS)}, found `{rope_scaling}`"
            )
        return cls(
            scaling=rope_scaling,
            freq_base=_check("rope_freq_base", rope_freq_base, low=1, unset=0),
            factor=_factor(rope_scale, rope_freq_scale),
            n_ctx_orig=_check("yarn_orig_ctx", yarn_orig_ctx, low=0, unset=0),
            ext_factor=_unless_negative("yarn_ext_factor", yarn_ext_factor, high=1),
            yarn_attn_factor=_unless_negative("yarn_attn_factor", yarn_attn_factor, high=100),
            beta_slow=_unless_negative("yarn_beta_slow", yarn_beta_slow, has_zero=False),
            beta_fast=_unless_negative("yarn_beta_fast", yarn_beta_fast, has_zero=False),
        )


AS_TRAINED = RopeChange()
"""Nothing otherwise."""


def _factor(scale: float | None, freq_scale: float) -> float | None:
    """Return how many times longer the context becomes, from either way to say it."""
    if scale is not None and freq_scale:
        raise UsageError(
            f"rope_scale {scale} and rope_freq_scale {freq_scale}: one is 1 / the other",
            hint="leave one of them out",
        )
    if not freq_scale:
        return None if scale is None else float(_check("rope_scale", scale, low=0))
    _check("rope_freq_scale", freq_scale, low=1 / _MOST, unset=0)
    return 1 / freq_scale


def _check(name: str, value: Any, *, low: float, unset: float | None = None) -> Any:
    """Return a number of (low, _MOST], or None for the one that leaves it to the model."""
    if value == unset:
        return None
    if not low < value <= _MOST:  # NaN fails, too
        also = "" if unset is None else f" or {unset} (the model's)"
        raise UsageError(f"{name}: expected ({low:g}, {_MOST:g}]{also}, found {value}")
    return value


def _unless_negative(
    name: str, value: float, *, high: float = _MOST, has_zero: bool = True
) -> float | None:
    """Return a number of [0, high], or None for a negative one, which leaves it to the model."""
    if value < 0:
        return None
    if not value <= high or (value == 0 and not has_zero):
        left = "[0" if has_zero else "(0"
        raise UsageError(f"{name}: expected {left}, {high:g}] or -1 (the model's), found {value}")
    return value
