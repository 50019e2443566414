"""Working memory of the encoders, for one thread. Pure Python: it is laid out without numba."""

from __future__ import annotations

from gguf_hub.gguf.types import QuantType as T

WEIGHTED_TYPES = frozenset(
    {
        T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K,
        T.IQ1_S, T.IQ1_M, T.IQ4_NL, T.IQ4_XS, T.IQ3_XXS, T.IQ3_S, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S,
    }
)  # fmt: skip
"""Types whose encoders can make use of an importance matrix."""

SCRATCH = 640
"""Floats: 32 vectors of weights, 32 of what they count for, 16 scales, 16 minima, 16 sums, 64
points of a grid and 16 of lanes."""

QUANTS = 288
"""int8: the quants of a super-block, 16 scales, 16 minima."""
