"""From numbers for each token to estimates with their standard errors.

All are means over tokens as if these were independent; tokens of a text are not, so the errors are
a little too small. llama.cpp's are the same.

Source: perplexity and kl_divergence in tools/perplexity/perplexity.cpp of llama.cpp at 050fc7f3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Which quantiles ``Divergence`` gives, besides the smallest and the largest value."""


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float

    @classmethod
    def of_mean(cls, values: Floats) -> Estimate:
        """Return the mean of independent values; the error is 0 where there is one value only."""
        n = len(values)
        error = math.sqrt(float(values.var()) / (n - 1)) if n > 1 else 0.0
        return cls(float(values.mean()), error)

    def exp(self) -> Estimate:
        """Return the exponential, its error to first order."""
        value = math.exp(min(self.value, 700.0))  # beyond that no float64 holds it
        return Estimate(value, value * self.error)

    def sqrt(self) -> Estimate:
        """Return the square root, its error to first order; 0 of 0."""
        root = math.sqrt(max(self.value, 0.0))
        return Estimate(root, self.error / (2 * root) if root else 0.0)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        value: exp(mean of -ln p(token)): among so many equally likely tokens it seems to choose.
        nll: The mean of -ln p(token), in nats.
        n_scored: Tokens that were predicted.
    """

    value: Estimate
    nll: Estimate
    n_scored: int

    @classmethod
    def of(cls, nll: Floats) -> Perplexity:
        """Return the perplexity of -ln p(token) of each token, [N]."""
        mean = Estimate.of_mean(nll)
        return cls(mean.exp(), mean, len(nll))


@dataclass(frozen=True)
class Divergence:
    """How far a model's predictions are from a base model's.

    Attributes:
        base: Perplexity of the base model on the same tokens.
        ln_ratio: ln(perplexity / perplexity of the base); both err alike, which makes this sharp.
        kl: Mean of KL(base || model), in nats.
        kl_quantiles: Share of tokens -> KL divergence that they do not exceed, 0 and 1 included.
        same_top: Share of tokens for which both hold the same token most likely.
        dp_mean: Mean of p(token) - p of the base.
        dp_rms: Root of its mean square.
        dp_quantiles: Share of tokens -> difference that they do not exceed.
        correlation: Of the two models' ln p(token); None where one does not vary.
    """

    base: Perplexity
    ln_ratio: Estimate
    kl: Estimate
    kl_quantiles: dict[float, float]
    same_top: Estimate
    dp_mean: Estimate
    dp_rms: Estimate
    dp_quantiles: dict[float, float]
    correlation: float | None

    @property
    def ratio(self) -> Estimate:
        """Perplexity / perplexity of the base."""
        return self.ln_ratio.exp()

    @classmethod
    def of(
        cls, nll: Floats, base_nll: Floats, kl: Floats, has_same_top: NDArray[np.bool_]
    ) -> Divergence:
        """Return the statistics of values for each token, [N] each."""
        dp = np.exp(-nll) - np.exp(-base_nll)
        spread = float(nll.std() * base_nll.std())
        covariance = float((nll * base_nll).mean() - nll.mean() * base_nll.mean())
        return cls(
            base=Perplexity.of(base_nll),
            # the error of a mean of differences contains the covariance
            ln_ratio=Estimate.of_mean(nll - base_nll),
            kl=Estimate.of_mean(kl),
            kl_quantiles=_quantiles(kl),
            same_top=Estimate.of_mean(has_same_top.astype(np.float64)),
            dp_mean=Estimate.of_mean(dp),
            dp_rms=Estimate.of_mean(dp * dp).sqrt(),
            dp_quantiles=_quantiles(dp),
            correlation=covariance / spread if spread else None,
        )


@dataclass(frozen=True)
class Result:
    """Perplexity and divergence of a text.

    Attributes:
        perplexity: Of the model.
        divergence: From a base model; None when there was none.
        n_chunks: Chunks of the text.
        n_ctx: Tokens of each.
    """

    perplexity: Perplexity
    divergence: Divergence | None
    n_chunks: int
    n_ctx: int


def _quantiles(values: Floats) -> dict[float, float]:
    shares = (0.0, *QUANTILES, 1.0)
    return {share: float(q) for share, q in zip(shares, np.quantile(values, shares), strict=True)}
