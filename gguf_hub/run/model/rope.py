"""Rotary position embedding: the angles of a model, and changes to its settings.

Knows formulas and llama.cpp's names for their settings; knows nothing of files or tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from gguf_hub.errors import UsageError

SCALINGS = ("none", "linear", "yarn")
"""Ways of scaling to longer contexts."""

_MAX = 1e12  # larger than any sensible setting, and safe in float32


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (arXiv 2104.09864) and its scaling to longer contexts.

    Attributes:
        n_rot: Rotated elements of each head.
        freq_base: Base of the geometric series of frequencies.
        scaling: ``none``, ``linear`` (arXiv 2306.15595) or ``yarn`` (arXiv 2309.00071).
        factor: How many times longer the context is than the one trained on; 1 for no scaling.
        n_ctx_orig: Context that the model was trained on before scaling.
        attn_factor: Extra factor on cosine and sine.
        yarn_attn_factor: Another one, where ``effective_ext_factor`` is 0.
        ext_factor: How far fast frequencies are extrapolated, from 0 to 1; negative for the default
            of the scaling, see ``effective_ext_factor``.
        beta_fast: Turns within ``n_ctx_orig`` above which a frequency is extrapolated (yarn).
        beta_slow: Turns below which a frequency is interpolated fully (yarn).
        log_multiplier: How much of yarn's own factor on cosine and sine is taken back (DeepSeek's
            ``mscale_all_dim``); 0 for nothing.
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
    log_multiplier: float = 0.0

    @property
    def scale(self) -> float:
        """Context length over the trained one: the factor, or 1 without scaling."""
        return 1.0 if self.scaling == "none" else self.factor

    @property
    def effective_ext_factor(self) -> float:
        """How far the fastest frequencies are extrapolated: as set, or 1 for yarn and 0 without."""
        if self.ext_factor >= 0:
            return self.ext_factor
        return 1.0 if self.scaling == "yarn" else 0.0

    def frequencies(self) -> list[float]:
        """Return the angle per position of each rotated pair, [n_rot / 2].

        Source: rope_yarn in ggml/src/ggml-cpu/ops.cpp at ggml c2cdd2b2; its mix of interpolated and
        extrapolated angle is linear in the position, so it is done here once.
        """
        plain = [self.freq_base ** (-2 * i / self.n_rot) for i in range(self.n_rot // 2)]
        if self.effective_ext_factor == 0:
            return [frequency / self.scale for frequency in plain]
        ramp_mix = [self.effective_ext_factor * self._ramp(i) for i in range(self.n_rot // 2)]
        return [
            frequency * (mix + (1 - mix) / self.scale)
            for frequency, mix in zip(plain, ramp_mix, strict=True)
        ]

    def magnitude(self) -> float:
        """Return the factor on cosine and sine; yarn raises it to keep attention's entropy.

        Source: the constructor in src/llama-context.cpp of llama.cpp with pull request 17945,
        and rope_yarn: with an ext_factor, yarn's own factor replaces ``yarn_attn_factor``.
        """
        if self.effective_ext_factor == 0:
            return self.attn_factor * self.yarn_attn_factor
        log = 0.1 * math.log(max(1.0, self.scale))
        return self.attn_factor * (1 + log) / (1 + self.log_multiplier * log)

    def with_changes(self, change: RopeChange) -> RopeConfig:
        """Return the configuration with a caller's changes."""
        changes = {name: value for name, value in vars(change).items() if value is not None}
        return replace(self, **changes)

    def _ramp(self, pair: int) -> float:
        """Return how far a pair is extrapolated (rope_yarn_ramp): 1 for fast pairs, 0 for slow."""
        low = max(0, math.floor(self._correction_dim(self.beta_fast)))
        high = min(self.n_rot - 1, math.ceil(self._correction_dim(self.beta_slow)))
        ramp = (pair - low) / max(0.001, high - low)
        return 1 - min(1.0, max(0.0, ramp))

    def _correction_dim(self, turns: float) -> float:
        """Return the pair that makes so many turns in ``n_ctx_orig`` (ggml_rope_yarn_corr_dim)."""
        period = math.log(self.n_ctx_orig) - math.log(turns) - math.log(2 * math.pi)
        return self.n_rot * period / (2 * math.log(self.freq_base))


@dataclass(frozen=True)
class RopeChange:
    """A caller's changes to the model's settings; None for the model's own value.

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
            yarn_ext_factor: How far fast frequencies are extrapolated: 0 for full interpolation,
                negative for the model's, or 1 with yarn and 0 without.
            yarn_attn_factor: Factor on cosine and sine where the former is 0; negative for the
                model's.
            yarn_beta_slow: Turns below which a frequency is interpolated fully; negative for the
                model's.
            yarn_beta_fast: Turns above which it is extrapolated; negative for the model's.

        Raises:
            UsageError: A value out of its interval, or two options for one setting.
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
"""No changes."""


def _factor(scale: float | None, freq_scale: float) -> float | None:
    """Return how many times longer the context becomes, from either option."""
    if scale is not None and freq_scale:
        raise UsageError(
            f"rope_scale {scale} and rope_freq_scale {freq_scale}: one is 1 / the other",
            hint="leave one of them out",
        )
    if not freq_scale:
        return None if scale is None else float(_check("rope_scale", scale, low=0))
    _check("rope_freq_scale", freq_scale, low=1 / _MAX, unset=0)
    return 1 / freq_scale


def _check(name: str, value: Any, *, low: float, unset: float | None = None) -> Any:
    """Return a number of (low, _MAX], or None for the value ``unset``."""
    if value == unset:
        return None
    if not low < value <= _MAX:  # NaN fails, too
        also = "" if unset is None else f" or {unset} (the model's)"
        raise UsageError(f"{name}: expected ({low:g}, {_MAX:g}]{also}, found {value}")
    return value


def _unless_negative(
    name: str, value: float, *, high: float = _MAX, has_zero: bool = True
) -> float | None:
    """Return a number of [0, high], or None for a negative one."""
    if value < 0:
        return None
    if not value <= high or (value == 0 and not has_zero):
        bracket = "[0" if has_zero else "(0"
        raise UsageError(
            f"{name}: expected {bracket}, {high:g}] or -1 (the model's), found {value}"
        )
    return value
